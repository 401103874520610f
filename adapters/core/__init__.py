"""What every room uses: errors, refusals, strict JSON parsing, atomic writes of a directory."""
