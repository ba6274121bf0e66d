"""Pure decisions: preflight, inventory; later leadership and placement. No I/O, no clock."""
