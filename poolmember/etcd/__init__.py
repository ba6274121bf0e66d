"""The pool's own etcd, as far as it is at this host."""
