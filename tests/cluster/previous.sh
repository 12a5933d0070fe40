# An older version of this project, built from its commit: what an upgrade comes from, and a roll-back goes to.
# shellcheck shell=bash

# previous_dir COMMIT
previous_dir() { echo "$CACHE/previous-${1:0:12}"; }

# make_previous DIRECTORY COMMIT: its source, and its images with a tag of their own.
make_previous() {
    need git cargo
    git -C "$HERE/../.." cat-file -e "$2^{commit}" 2>/dev/null \
        || die "this repository has no commit $2; fetch its history (git fetch --unshallow)"
    say "building the version of ${2:0:12} (about 3 minutes on two cores)"
    mkdir "$1/source"
    git -C "$HERE/../.." archive "$2" | tar -x -C "$1/source"
    (cd "$1/source" && CARGO_TARGET_DIR=$1/target CARGO_PROFILE_DEV_DEBUG=0 nice cargo build --quiet --locked) &
    watch_build $!
    IMAGES=$1/source/images TAG=previous with_store "$1" make_images "$1/target/debug/vmail-operator"
    rm -rf "$1/target"
}

# Prints nothing but the directory of its source.
cmd_previous() {
    local commit=${1:-} dir target
    [[ $commit =~ ^[0-9a-f]{40}$ ]] || die "which commit? Usage: cluster previous COMMIT [--name NAME]"
    dir=$(previous_dir "$commit")
    make_cached "$dir" make_previous "$commit"
    if is_up && [[ $(cat "$STATE/previous" 2>/dev/null) != "$commit" ]]; then
        for target in operator postfix; do
            load_image "$dir/$target.tar" "$(TAG=previous image_name "$target")"
        done
        echo "$commit" >"$STATE/previous"
    fi
    echo "$dir/source"
}
