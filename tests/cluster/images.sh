# The images: built with buildah from images/Containerfile, loaded into the cluster's containerd.
# shellcheck shell=bash

# A store of our own: the images and containers of the machine's user are not ours to see or to prune. And mounts
# of our own: buildah leaves some behind, which end with the command this way.
in_store() {
    unshare --mount env BUILDAH_ISOLATION=chroot \
        buildah --root "$CACHE/images/store" --runroot "$CACHE/images/run" "$@"
}

# with_store DIRECTORY FUNCTION ARGUMENT…: FUNCTION DIRECTORY ARGUMENT…, while nobody else is in the store. A build
# leaves the containers of its stages there, and they keep every old binary: they are taken out before (of a
# build that failed) and after.
with_store() {
    local work=$1 function=$2
    shift 2
    mkdir -p "$CACHE/images"
    (
        flock 8
        empty_store
        "$function" "$work" "$@" 8>&-
        empty_store
    ) 8>"$CACHE/images/lock"
}

# Layers that an image with a name is built upon stay: they are what makes the next build quick.
empty_store() {
    in_store rm --all >/dev/null 2>&1 8>&- || true
    in_store rmi --prune >/dev/null 2>&1 8>&- || true
}

base_image() { echo "localhost/vmail-base:$(basename "$(base_dir)")"; }

# Brings the base into the store, once.
ensure_base_image() {
    local container
    make_cached "$(base_dir)" make_base
    in_store inspect --type image "$(base_image)" >/dev/null 2>&1 && return 0
    say "storing the base image"
    container=$(in_store from scratch)
    in_store add -q "$container" "$(base_dir)/base.tar" / >/dev/null
    in_store config --cmd /bin/sh "$container"
    in_store commit -q "$container" "$(base_image)" >/dev/null
    in_store rm "$container" >/dev/null
}

# build_target TARGET TAG CONTEXT OPTION…
build_target() {
    local target=$1 tag=$2 context=$3 log=$CACHE/images/$1.log
    shift 3
    in_store build "$@" -f "$IMAGES/Containerfile" --target "$target" --build-arg "BASE=$(base_image)" \
        --build-arg BINARY=prebuilt -t "$tag" "$context" >"$log" 2>&1 && return 0
    tail -n 25 "$log" >&2
    die "the image target '$target' could not be built; the log is $log"
}

rootfs_dir() { echo "$CACHE/rootfs-$(key "$IMAGES/Containerfile" -- "$(base_dir)")"; }

make_rootfs() {
    local container
    mkdir -p "$1/context" "$1/rootfs"
    ensure_base_image
    say "building the Postfix image without the project's binary"
    build_target postfix-base localhost/vmail-postfix-base:dev "$1/context" --layers
    container=$(in_store from localhost/vmail-postfix-base:dev)
    # One command, since the mount ends with it.
    # shellcheck disable=SC2016 # expands in there
    unshare --mount /bin/sh -ec 'cp -a "$(buildah --root "$1/store" --runroot "$1/run" mount "$2")/." "$3/"' \
        sh "$CACHE/images" "$container" "$1/rootfs"
    rmdir "$1/context"
}

# Prints nothing but the path, for `lowerdir=$(tests/cluster/cluster rootfs)`.
cmd_rootfs() {
    need buildah
    make_cached "$(rootfs_dir)" with_store make_rootfs
    echo "$(rootfs_dir)/rootfs"
}

TAG=dev
image_name() {
    case $1 in
        operator) echo "localhost/vmail-operator:$TAG" ;;
        postfix) echo "localhost/vmail-operator-postfix:$TAG" ;;
    esac
}

# make_images DIRECTORY BINARY
make_images() {
    local target name
    mkdir -p "$1/context"
    ensure_base_image
    cp "$2" "$1/context/vmail-operator"
    for target in operator postfix; do
        name=$(image_name "$target")
        say "building $name"
        build_target "$target" "$name" "$1/context" --layers
        # Not compressed, unlike an OCI archive: that took longer than the rest of the build.
        in_store push -q "$name" "docker-archive:$1/$target.tar:$name" >/dev/null
    done
    rm -rf "$1/context"
}

cmd_images() {
    local binary=${1:-} id dir target
    [[ -n $binary ]] || die "which binary? Usage: cluster images BINARY [--name NAME]"
    [[ -f $binary && -x $binary ]] || die "'$binary' is not a program; build it first (cargo build --release)"
    need buildah
    id=$(key "$binary" "$IMAGES/Containerfile" -- "$(base_dir)")
    dir=$CACHE/program-archives-$id
    make_cached "$dir" with_store make_images "$binary"
    touch "$dir"
    forget_old_images
    if ! is_up; then
        # shellcheck disable=SC2153 # set by the main script
        say "the images are built; the cluster '$NAME' is not up, so they are not loaded"
        return 0
    fi
    if [[ $(cat "$STATE/images" 2>/dev/null) == "$id" ]]; then
        say "the images of this binary are loaded already"
        return 0
    fi
    for target in operator postfix; do
        load_image "$dir/$target.tar" "$(image_name "$target")"
    done
    echo "$id" >"$STATE/images"
    say "the images are loaded"
}

# make_release WORK DIRECTORY BINARY VERSION: archives that differ in nothing when their content does not, each with a list of
# its Debian packages.
make_release() {
    local directory=$2 binary=$3 version=$4 target name container
    mkdir -p "$1/context"
    ensure_base_image
    cp "$binary" "$1/context/vmail-operator"
    for target in operator postfix; do
        name=vmail-operator
        [[ $target == operator ]] || name+=-$target
        say "building $name:$version"
        # Without the layers of another day.
        build_target "$target" "localhost/$name:$version" "$1/context" \
            --no-cache --timestamp "$SOURCE_DATE_EPOCH" --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH"
        in_store push -q "localhost/$name:$version" "oci:$1/$name:$version" >/dev/null
        tar -C "$1/$name" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf "$directory/$name-$version.oci.tar" .
        container=$(in_store from "localhost/$name:$version")
        # shellcheck disable=SC2016 # expanded by dpkg-query
        in_store run "$container" -- dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' >"$directory/$name.packages"
        in_store rm "$container" >/dev/null
        in_store rmi "localhost/$name:$version" >/dev/null
    done
}

cmd_archives() {
    (($# == 3)) || die "Usage: cluster archives BINARY VERSION DIRECTORY"
    need buildah
    local work
    work=$(mktemp -d "$CACHE/.work.XXXXXX")
    # shellcheck disable=SC2064 # as it is now
    trap "rm -rf '$work'" EXIT
    with_store "$work" make_release "$3" "$1" "$2"
}

# Each pair is of several hundred megabytes, and there is one for every binary. Two are kept, for going
# back and forth between versions.
forget_old_images() {
    local old
    # shellcheck disable=SC2012 # our own names, without spaces
    ls -dt "$CACHE"/program-archives-*/ | tail -n +3 | while read -r old; do
        rm -rf "$old" "${old%/}.lock"
    done
}

# load_image ARCHIVE NAME
# containerd moves the name to the new content; pods created from then on use it (pull policy Never or
# IfNotPresent). The archive carries the name itself.
load_image() {
    local log=$STATE/log/images.log
    say "loading $2"
    if ! inside ctr --address "$CONTAINERD_SOCKET" -n k8s.io images import "$1" >>"$log" 2>&1; then
        tail -n 5 "$log" >&2
        die "containerd refused $1; the log is $log"
    fi
    # The part of containerd that the kubelet asks hears of an import a moment later, and marks the image.
    wait_for 20 "$STATE/log/containerd.log" "containerd's knowledge of the image $2" cri_has_image "$2"
}
