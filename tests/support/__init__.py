"""What several test files share: models, servers, corpora and runs made on the spot, and processes to watch."""
