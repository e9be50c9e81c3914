# Setup of benchmarks: the peers and tracers that `./dev bench` uses. Sourced by `dev`, after scripts/setup.sh.
# shellcheck shell=bash

# Installs a Debian package unless the program is there. Says in one sentence what is lost when it cannot.
bench_program() {
    local program=$1 package=$2 loss=$3
    ! command -v "$program" >/dev/null && [ ! -x "/usr/sbin/$program" ] || return 0
    if is_root && apt_install "$package"; then return 0; fi
    say "$program is missing and could not be installed ($loss): let root run 'apt-get install $package'"
}

# Debian's packages of servers start them; what a benchmark needs it starts itself.
bench_server() {
    local fresh=1
    ! command -v "$1" >/dev/null && [ ! -x "/usr/sbin/$1" ] || fresh=0
    bench_program "$@"
    if [ "$fresh" = 1 ] && is_root && command -v systemctl >/dev/null; then
        systemctl disable --now "$2" >/dev/null 2>&1 || true
    fi
}

setup_bench() {
    setup_cluster
    bench_server pgbouncer pgbouncer "the proxy is not compared with PgBouncer"
    bench_server haproxy haproxy "the proxy is not compared with HAProxy"
    bench_program perf linux-perf "system calls are not counted"
    bench_program valgrind valgrind "instructions of the codecs are not counted"
}

# Programs and benchmarks are built as packages are: cargo does nothing when they are up to date.
bench() {
    case ${1:-} in
        list | render | -h | --help) ;;
        *) setup_bench ;;
    esac
    build --profile dist -p safekeeper -p walproposer -p proxy -p benchmarks \
        --bin safekeeper --bin walproposer --bin proxy --bin bench --bin bare_relay --bin pg_load --bin codec_loop
    exec "${CARGO_TARGET_DIR:-target}/dist/bench" "$@"
}
