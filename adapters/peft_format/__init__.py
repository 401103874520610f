"""Read a PEFT adapter directory: its configuration, its weights' header, its digest."""
