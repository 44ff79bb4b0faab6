#!/usr/bin/env bash
# Builds a stand-in for the official Kafka image from Maven Central's jars, for machines that cannot pull it: a JRE cut down
# by jlink, the C library, dash and the broker's jars, as one layer. It takes about a minute and 140 MB.
#
#   build-image.sh [tag]        default apache/kafka:4.4.0; the tag's version is the Kafka version that is built
#
# Needs: docker, mvn, a JDK 17 or newer with jlink (JAVA_HOME, or on PATH), dash.
set -euo pipefail
exec </dev/null

tag=${1:-apache/kafka:4.4.0}
version=${KAFKA_VERSION:-${tag##*:}}
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "build-image: $*"; }
fail() { echo "build-image: $*" >&2; exit 1; }

case $version in
[0-9]*.[0-9]*.[0-9]*) ;;
*) fail "\"$version\" is not a Kafka version: name it in the tag, as in apache/kafka:4.4.0, or in KAFKA_VERSION" ;;
esac
for tool in docker mvn dash tar ldd awk; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done
if [ -z "${JAVA_HOME:-}" ]; then
  jlink=$(command -v jlink) || fail "no JDK: jlink is neither on PATH nor under JAVA_HOME"
  JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$jlink")")")
fi
[ -x "$JAVA_HOME/bin/jlink" ] || fail "no jlink under JAVA_HOME ($JAVA_HOME): a JDK is needed, not a JRE"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,usr/bin,lib64,tmp,etc/kafka/docker,mnt/shared/config,opt/kafka/config,opt/kafka/libs,var/lib/kafka/data,proc,dev,sys}
chmod 1777 "$root/tmp"

say "Kafka $version: jars from Maven Central"
mvn -q -B -ntp -f "$here/pom.xml" -Dkafka.version="$version" dependency:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$root/opt/kafka/libs" >"$work/mvn.log" 2>&1 || {
  tail -20 "$work/mvn.log" >&2
  fail "Maven could not get the jars of Kafka $version (a proxy or mirror goes into ~/.m2/settings.xml)"
}

# java.desktop is needed for java.beans alone: its libraries would drag X11 in.
say "a JRE for them"
"$JAVA_HOME/bin/jlink" --output "$root/opt/java" --strip-debug --no-header-files --no-man-pages --vm=server --add-modules \
  java.base,java.desktop,java.logging,java.management,java.management.rmi,java.naming,java.security.jgss,java.security.sasl,java.sql,jdk.crypto.ec,jdk.management,jdk.unsupported
(cd "$root/opt/java/lib" && rm -f libawt*.so libfont*.so libfree*.so libjavajpeg.so libjawt.so libjsound.so liblcms.so libmlib*.so libsplash*.so)
"$root/opt/java/bin/java" -Xshare:dump >/dev/null # jlink 17 makes no class data archive

cp -L "$(command -v dash)" "$root/bin/sh"
{
  find "$root/opt/java" -name '*.so' -print0 | xargs -0 ldd 2>/dev/null || true
  ldd "$root/opt/java/bin/java" "$root/bin/sh"
} | awk '$2 == "=>" && $3 ~ "^/" {print $3} $1 ~ "^/.*ld-linux" {print $1}' | { grep -v "$root" || true; } | sort -u |
  while read -r lib; do
    mkdir -p "$root$(dirname "$lib")"
    cp -L "$lib" "$root$lib"
  done

cp "$here/server.properties" "$root/etc/kafka/docker/"
install -m755 "$here/run" "$root/etc/kafka/docker/run"
echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"

tar -C "$root" --owner=0 --group=0 -c . | docker import \
  -c 'ENV PATH=/opt/java/bin:/usr/bin:/bin LANG=C.UTF-8 CLUSTER_ID=5L6g3nShT-eMCtK--X86sw' \
  -c 'EXPOSE 9092' -c 'VOLUME /var/lib/kafka/data' -c 'CMD ["/etc/kafka/docker/run"]' \
  -c 'LABEL io.millrace.image=local' - "$tag" >/dev/null
say "done: $(docker image ls --format '{{.Repository}}:{{.Tag}}, {{.Size}}' "$tag")"
