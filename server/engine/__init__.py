"""Engine-side fixes and fast paths, one small file each, applied through vLLM's `general_plugins` door."""
