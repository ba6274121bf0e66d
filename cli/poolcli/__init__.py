"""The `pool` command: one file per noun, none of which knows how a pool works.

Nothing here imports the client library or rich before a command needs it: `pool --help` and the
shell's completion are to be quick.
"""
