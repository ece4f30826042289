"""Checkpoints in Hugging Face's form: read strictly, as data, and never as code."""
