"""The pool master: decides, commits, feeds the members and answers the API."""
