"""Make a base model ready to serve: find it, choose a scheme, quantise it, save it."""
