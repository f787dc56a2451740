#!/usr/bin/env bash
# Installs the packages of deploy/packages.txt that are not there yet.
#
#   deploy/install_packages.sh build data     what the quickstart needs
#   deploy/install_packages.sh build data tests
#
# Root, or a user with sudo. Says in one sentence what is wrong and exits 1 when a package cannot be installed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
case " $* " in
  *" -h "*|*" --help "*) usage; exit 0 ;;
esac
groups=$(grep -v '^#' "$here/packages.txt" | awk 'NF {print $1}' | sort -u | tr '\n' ' ')
[ $# -gt 0 ] || { usage >&2; exit 2; }
for group in "$@"; do
  case " $groups" in
    *" $group "*) ;;
    *) echo "install_packages: no group \"$group\", wanted some of: $groups" >&2; exit 2 ;;
  esac
done

fail() { echo "install_packages: $*" >&2; exit 1; }

command -v dpkg-query >/dev/null || fail "this script needs Debian 12 or Ubuntu 24.04 (no dpkg-query here); install the packages of deploy/packages.txt by hand."

missing=()
while read -r group package; do
  case " $* " in *" $group "*) ;; *) continue ;; esac
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done < <(grep -v '^#' "$here/packages.txt")
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "these packages are missing and you are neither root nor have sudo: ${missing[*]}."
  sudo=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; }
reason() { grep -m1 -E '^E:' "$log" || tail -n1 "$log"; }

echo "Installing ${#missing[@]} packages: ${missing[*]}" >&2
if ! apt install -y --no-install-recommends "${missing[@]}"; then
  # A fresh machine has no package lists yet, or old ones.
  apt update || fail "the package lists cannot be read: $(reason)"
  apt install -y --no-install-recommends "${missing[@]}" ||
    fail "a package of (${missing[*]}) cannot be installed: $(reason)"
fi
