"""Operations that take longer than one commit: join, eject. Each is a table of recorded steps."""
