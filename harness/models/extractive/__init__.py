"""Question generation from a document's own sentences, without a language model."""
