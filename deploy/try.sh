#!/usr/bin/env bash
# Everything that runs without containers, on this machine and on loopback: Kafka, Redis, a simulated plant, the service
# with its page, webhooks, Prometheus, Alertmanager. Something breaks; then you see when who knew.
#
#     deploy/try.sh             a minute or two after set-up; everything ends by itself
#     deploy/try.sh --keep      … stays until Ctrl-C
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make setup-dev servers >&2
exec .venv/bin/python -m deploy.walkthrough "$@"
