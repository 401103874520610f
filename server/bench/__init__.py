"""What the product costs: pairs measured side by side in one run, as ratios with their spread."""
