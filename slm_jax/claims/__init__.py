"""The claims of the original system, measured on a bundle of the spoken scenes."""
