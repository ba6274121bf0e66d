#!/bin/sh
# The command in scripts: data on stdout, JSON on request, an exit code per kind of outcome.
#
#     POOL_SERVER=10.0.0.1 examples/scripted.sh 10.0.0.2
set -u

pool add-host "$1" --dry-run -o json > check.json
case $? in
0) echo "$1 fits" ;;
5) echo "$1 does not fit; what to do is in remedies.sh"
   pool add-host "$1" --dry-run -o script > remedies.sh
   exit 5 ;;
6) echo "no host of the pool answers"; exit 6 ;;
*) echo "the check failed"; exit 1 ;;
esac

pool add-host "$1" || exit
pool wait "host/$(pool host list -o json | python3 -c '
import json, sys
print(max(json.load(sys.stdin), key=lambda host: host["address"])["uuid"])')" \
    --for enabled=true --timeout 30 || exit
pool sr list -o json | python3 -c '
import json, sys
print(len(json.load(sys.stdin)), "storage repositories")'
