#!/bin/sh
# Makes sure of Java 17 (with javac) and Maven, which Elasticsearch and Flink on this machine need,
# and of Node.js and npm, which its Kinesis needs. With "postgresql" or "chromium" as its argument, of
# that too, which the tests of "adtally pull" and of "adtally dashboard" need.
# Installs them with apt-get where that is possible; otherwise says what to install, and fails.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

java_version() {
  javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p'
}

missing=""
if ! have java || ! have javac || [ "$(java_version)" -lt 17 ]; then
  missing="openjdk-17-jdk-headless"
fi
have mvn || missing="$missing maven"
have node || missing="$missing nodejs"
have npm || missing="$missing npm"
if [ "${1:-}" = postgresql ] && ! have initdb && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
  missing="$missing postgresql"
fi
if [ "${1:-}" = chromium ] && ! have chromium && ! have chromium-browser && ! have google-chrome; then
  missing="$missing chromium"
fi
[ -n "$missing" ] || exit 0

if have apt-get && [ "$(id -u)" = 0 ]; then
  sudo=""
elif have apt-get && have sudo && sudo -n true 2>/dev/null; then
  sudo="sudo"
else
  echo "adtally: the servers on this machine need:$missing (Debian: apt-get install $missing)." >&2
  exit 1
fi
echo "adtally: installing $missing" >&2
case "$missing" in
*postgresql*) # the tests make clusters of their own; Debian would start one on port 5432
  if [ ! -e /etc/postgresql-common ]; then
    $sudo mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi ;;
esac
# shellcheck disable=SC2086
if $sudo apt-get update -qq >&2 &&
   DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends \
     -o Dpkg::Options::=--force-confold $missing >&2; then
  exit 0
fi
echo "adtally: apt-get could not install $missing; please install them by hand." >&2
exit 1
