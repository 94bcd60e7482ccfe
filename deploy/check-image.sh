#!/usr/bin/env bash
# Builds the image and asks a server that runs in it, as another user, with a read-only root and 64 MB of /dev/shm.
#
#   deploy/check-image.sh HOME      HOME: a home with the films and MovieLens, as `recserve demo` leaves it
#
# Needs root, buildah and util-linux, and no daemon. BASE names the base image; BUILD_OPTIONS are further options of
# `buildah bud`, such as volumes with the configuration of pip; IMAGE an image that is built already. The home is copied,
# not changed.
set -euo pipefail

home=$(realpath "${1:?name the home of a demo}")
cd "$(dirname "$0")/.."
image=${IMAGE:-localhost/recserve-check}
options=(--storage-driver="${STORAGE_DRIVER:-vfs}")
user=10001

if [ -z "${IMAGE:-}" ]; then
    # shellcheck disable=SC2086  # several options in one variable
    buildah "${options[@]}" bud --isolation=chroot --network=host --format=docker -f deploy/Containerfile \
        --build-arg BASE="${BASE:-docker.io/library/debian:bookworm-slim}" ${BUILD_OPTIONS:-} -t "$image" .
fi

work=$(mktemp -d)
container=$(buildah "${options[@]}" from "$image")
root=$(buildah "${options[@]}" mount "$container")
finish() {
    buildah "${options[@]}" rm "$container" >/dev/null
    rm -rf "$work"
}
trap finish EXIT
cp -a "$home" "$work/home"
rm -rf "$work/home/run" "$work/home/movielens/run"
chown -R "$user:$user" "$work/home"

# In namespaces of its own: what is mounted and started there ends with them.
unshare --mount --pid --fork --kill-child bash -euo pipefail -s -- "$root" "$work/home" "$user" <<'INSIDE'
root=$1 home=$2 user=$3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/tmp"
mount --bind "$home" "$root/var/lib/recserve"
mount -o remount,bind,ro "$root"

enter() {
    chroot --userspec="$user:$user" "$root" env -i PATH=/opt/recserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 \
        RECSERVE_ADDRESS="${address:-127.0.0.1:8001}" COLUMNS=100 "$@"
}

if enter touch /written 2>/dev/null; then
    echo "error: the root can be written" >&2
    exit 1
fi

value() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$home/ready.json"; }

serve() {
    enter recserve serve --home "$1" --log-json --grpc-port 0 --metrics-port 0 \
        --ready-file /var/lib/recserve/ready.json &
    server=$!
    for _ in $(seq 600); do
        [ ! -e "$home/ready.json" ] || break
        kill -0 "$server"
        sleep 0.2
    done
    address=$(sed -n 's/.*"grpc":"\([^"]*\)".*/\1/p' "$home/ready.json")
    enter recserve ready
    [ "$(stat -c %u "$root/proc/$(value server_pid)")" = "$user" ]
}

stop() {
    kill -TERM "$(value pid)"
    wait "$server"
}

ask() {
    enter recserve recommend "$@" -k 5 --json | tee "$home/answer.json" | head -c 200
    echo
    [ "$(grep -o '"id"' "$home/answer.json" | wc -l)" -ge 5 ] || { echo "error: too few items" >&2; exit 1; }
}

# The histories of the first scene of the demo, and the user by id of the second one.
serve /var/lib/recserve
ask --item tt0114709 --item tt0266543 --item tt0198781
ask --item tt0076759 --item tt0078748 --text "a voyage to a distant planet"
ask --item tt0068646 --text "a heist goes wrong" --not-text "romance=0.3"
df --output=size,used -BM "$root/dev/shm"
stop
serve /var/lib/recserve/movielens
ask --user 196 --field movie_title
stop
echo "the servers in the image answered as user $user and ended with 0"
INSIDE
