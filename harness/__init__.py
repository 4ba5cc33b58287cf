"""A bench for model-aware synthetic data generation. Importing it is light; heavy libraries load inside stages."""

__version__ = "0.1.0"
