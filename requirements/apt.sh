#!/usr/bin/env bash
# Install the Debian packages that the tests use (requirements/apt.txt) where they are missing and we may.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
while read -r package; do
  [ -z "$package" ] || dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null |
    grep -qx installed || missing+=("$package")
done < apt.txt
[ ${#missing[@]} -gt 0 ] || exit 0
install() {
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
if [ "$(id -u)" -ne 0 ] || ! install "${missing[@]}"; then
  echo "tools: ${missing[*]} could not be installed: the tests that need it are skipped" >&2
fi
