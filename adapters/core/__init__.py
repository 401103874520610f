"""What every room uses: errors, refusals, strict JSON, directories that appear whole."""
