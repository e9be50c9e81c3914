# Regress: gets PostgreSQL's own tests for `./dev regress`. Sourced by `dev` after scripts/setup.sh.
# shellcheck shell=bash

# The source package of Debian has the tests' SQL. The package for extensions has pg_regress and the headers for the tests'
# own library. Tests and programs must be of one minor version, or some tests differ for that reason alone. An archive may
# have the programs of a version and not its source; then programs of a version whose source is there are unpacked beside.
setup_regress() {
    local own major directory
    own=$(installed_postgres_version)
    major=${own%%.*}
    directory=$TOOLS/regress/$major
    [ "$(cat "$directory/ready" 2>/dev/null)" != "$own" ] || return 0

    command -v apt-get >/dev/null && is_root ||
        die "the source of PostgreSQL comes through apt-get: let root run ./dev regress on Debian or Ubuntu"
    apt_install "postgresql-server-dev-$major" gcc libc6-dev dpkg-dev bzip2 || die "see $TOOLS/apt.log"
    # The package may have upgraded the programs.
    own=$(installed_postgres_version)
    rm -rf "$directory" && mkdir -p "$directory/lists/partial" "$directory/lib"

    (
        cd "$directory"
        download_regress_source "$major" "$own"
        build_regress_libraries
        printf '%s\n' "$own" >ready
    ) || exit 1
}

# The version that the programs print, for example 15.18.
installed_postgres_version() {
    "$(sed -n 's/^PG_BIN=//p' "$TOOLS/env")/postgres" --version | sed -n 's/.*PostgreSQL) \([0-9.]*\).*/\1/p'
}

# Unpacks the tests into the current directory, of version $2 if any archive has its source, and writes to the file `bin`
# where programs of the same version are.
download_regress_source() {
    local major=$1 own=$2 version found=
    apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
        'Origin: Debian' | sort -u >sources.list
    local options=(-o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$PWD/lists" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" -q update >apt.log 2>&1 || die "could not get the list of source packages: see $PWD/apt.log"

    local versions
    versions=$(apt-cache "${options[@]}" showsrc --only-source "postgresql-$major" | sed -n 's/^Version: //p')
    # The version of the programs first, then the others in the order of the archives.
    for version in $(grep "^$own-" <<<"$versions") $(grep -v "^$own-" <<<"$versions"); do
        if apt-get "${options[@]}" -q source --download-only "postgresql-$major=$version" >>apt.log 2>&1; then
            found=$version
            break
        fi
    done
    [ -n "$found" ] || die "could not get the source of PostgreSQL $major: see $PWD/apt.log"
    tar -xf postgresql-*.orig.tar.* --strip-components=1 --wildcards '*/src/test/regress/*' '*/contrib/spi/*'

    sed -n 's/^PG_BIN=//p' "$TOOLS/env" >bin
    [ "${found%%-*}" = "$own" ] || use_programs_of "$major" "$found" "$own"
}

# Unpacks Debian's packages of version $2 and names their directory in the file `bin`.
use_programs_of() {
    local major=$1 version=$2 own=$3 package
    say "no archive has the source of PostgreSQL $own: the tests run with programs of ${version%%-*}, as their SQL"
    if apt-get -o APT::Sandbox::User=root -q download "postgresql-$major=$version" "postgresql-client-$major=$version" \
        "postgresql-server-dev-$major=$version" >>apt.log 2>&1; then
        for package in ./*.deb; do dpkg -x "$package" programs; done
        chmod -R a+rX programs
        printf '%s\n' "$PWD/programs/usr/lib/postgresql/$major/bin" >bin
    else
        say "could not get these programs: some tests will differ, alike both ways (see $PWD/apt.log)"
    fi
}

# The C functions that the tests call, built for the programs that the file `bin` names.
build_regress_libraries() {
    local headers source
    headers=$("$(cat bin)/pg_config" --includedir-server)
    for source in src/test/regress/regress.c contrib/spi/refint.c contrib/spi/autoinc.c; do
        cc -O1 -w -DREFINT_VERBOSE -shared -fPIC -I"$headers" -o "lib/$(basename "$source" .c).so" "$source" ||
            die "could not build $source"
    done
}
