"""Calling a server that speaks the OpenAI API: one asynchronous client, its limits, its account of what was paid."""
