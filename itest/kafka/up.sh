#!/usr/bin/env bash
# Brings this machine to where the tests can start a real Kafka: a container engine that runs, and an image. It does only what is
# missing and says what and why; run again it does nothing.
#
#   MILLRACE_TEST_KAFKA_IMAGE   the image, default apache/kafka:4.4.0: the one that is here, else pulled, else built from
#                               Maven Central's jars (build-image.sh)
#   MILLRACE_TEST_BROKERS       set: the tests use that cluster, and there is nothing to do here
set -euo pipefail
exec </dev/null # callers may have closed it

image=${MILLRACE_TEST_KAFKA_IMAGE:-apache/kafka:4.4.0}
here=$(cd "$(dirname "$0")" && pwd)
scratch=${TMPDIR:-/tmp}
export DEBIAN_FRONTEND=noninteractive

say() { echo "kafka [${SECONDS}s]: $*"; }
fail() {
  echo "kafka: $*" >&2
  echo "kafka: or set MILLRACE_TEST_BROKERS to a cluster that the tests may write to" >&2
  exit 1
}

if [ -n "${MILLRACE_TEST_BROKERS:-}" ]; then
  say "the tests use $MILLRACE_TEST_BROKERS (MILLRACE_TEST_BROKERS)"
  exit 0
fi

# Two of us at once would install and build everything twice. The lock's file is not passed on to what is started here.
if command -v flock >/dev/null; then
  exec 9>"$scratch/millrace-kafka-up.$(id -u).lock"
  flock 9
fi

updated=
install() { # install WHY PACKAGE...
  local why=$1
  shift
  command -v apt-get >/dev/null || fail "$why is missing, and there is no apt-get to install it with: install $*"
  [ "$(id -u)" = 0 ] || fail "$why is missing: run \"sudo apt-get install $*\""
  say "installing $* with apt: $why"
  if [ -z "$updated" ]; then
    apt-get update -qq >"$scratch/millrace-apt.log" 2>&1 9>&- || { tail -5 "$scratch/millrace-apt.log" >&2; fail "apt-get update failed"; }
    updated=yes
  fi
  apt-get install -y -qq --no-install-recommends "$@" >"$scratch/millrace-apt.log" 2>&1 9>&- ||
    { tail -5 "$scratch/millrace-apt.log" >&2; fail "apt-get install $* failed"; }
}

engine() { docker info >/dev/null 2>&1; }

if ! command -v docker >/dev/null || ! engine; then
  if command -v docker >/dev/null && docker info 2>&1 | grep -qi 'permission denied'; then
    fail "$(id -un) may not use the container engine: add it to the group docker, or run this as root"
  fi
  if [ -n "${DOCKER_HOST:-}" ]; then
    fail "no engine answers at $DOCKER_HOST (DOCKER_HOST)"
  fi
  # iptables publishes a container's port on this machine.
  command -v dockerd >/dev/null && command -v iptables >/dev/null ||
    install "a container engine, to run a real Kafka in" docker.io iptables
  if ! engine; then
    [ "$(id -u)" = 0 ] || fail "the container engine does not run: start it (sudo systemctl start docker)"
    log=$(mktemp "$scratch/millrace-dockerd.XXXXXX")
    say "starting the container engine (log: $log)"
    setsid nohup dockerd >"$log" 2>&1 9>&- &
    for _ in $(seq 300); do
      engine && break
      sleep 0.1
    done
    engine || { tail -20 "$log" >&2; fail "the container engine did not start"; }
  fi
fi

if docker image inspect "$image" >/dev/null 2>&1; then
  say "engine $(docker version --format '{{.Server.Version}}') and image $image are here"
  exit 0
fi

say "pulling $image"
if timeout 300 docker pull -q "$image" >"$scratch/millrace-pull.log" 2>&1 9>&-; then
  say "image $image pulled"
  exit 0
fi
say "it cannot be pulled ($(tail -1 "$scratch/millrace-pull.log" | cut -c1-160))"
case $image in
apache/kafka:[0-9]*) ;;
*) fail "image $image is not here and cannot be pulled; only apache/kafka:VERSION can be built" ;;
esac

command -v mvn >/dev/null || install "Maven, for Kafka's jars" maven
[ -x "${JAVA_HOME:-/nonexistent}/bin/jlink" ] || command -v jlink >/dev/null ||
  install "a JDK, to cut down a runtime for the image" openjdk-17-jdk-headless
say "building $image from Maven Central's jars: about a minute"
"$here/build-image.sh" "$image" 9>&-
say "image $image built"
