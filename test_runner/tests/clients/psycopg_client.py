"""What a program written with psycopg 3 does. Where to connect stands in the environment, as libpq has it. Prints a
line for each thing that went well; an exception ends it."""

import hashlib
import threading
import time

import psycopg


def parameters(connection):
    row = connection.execute("SELECT current_user, current_setting('search_path'), %s || 'ü'", ["ä"]).fetchone()
    assert row == ("app", "public,b", "äü"), row
    assert connection.info.encoding == "utf-8", connection.info.encoding
    print("parameters")


def transactions(connection):
    connection.execute("CREATE TABLE t (a int PRIMARY KEY, b text)")
    connection.commit()
    try:
        with connection.transaction():
            connection.execute("INSERT INTO t VALUES (1, 'x'), (1, 'y')")
    except psycopg.errors.UniqueViolation as error:
        assert error.sqlstate == "23505" and error.diag.table_name == "t", error.diag.message_primary
    else:
        raise AssertionError("two rows of one key")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.commit()
    print("transactions")


def prepared(connection):
    for number in range(20):
        row = connection.execute("SELECT %s::int + 1", [number], prepare=True).fetchone()
        assert row == (number + 1,), row
    assert connection.execute("SELECT count(*) > 0 FROM pg_prepared_statements").fetchone() == (True,)
    with connection.cursor("at_the_server") as cursor:
        cursor.execute("SELECT generate_series(1, 10000)")
        assert sum(row[0] for row in cursor) == 50005000
    connection.commit()
    print("prepared")


def pipeline(connection):
    with connection.pipeline():
        for number in range(1000):
            connection.execute("INSERT INTO t VALUES (%s, 'x')", [number])
        cursor = connection.execute("SELECT count(*), sum(a) FROM t")
    assert cursor.fetchone() == (1000, 499500)
    try:
        with connection.pipeline():
            connection.execute("INSERT INTO t VALUES (5000, 'x')")
            connection.execute("SELECT 1 / 0")
            connection.execute("INSERT INTO t VALUES (5001, 'x')")
    except psycopg.errors.DivisionByZero:
        connection.rollback()
    else:
        raise AssertionError("a division by zero passed")
    assert connection.execute("SELECT count(*) FROM t WHERE a >= 5000").fetchone() == (0,)
    connection.commit()
    print("pipeline")


def copy(connection):
    connection.execute("CREATE UNLOGGED TABLE c (line text)")
    there, back = hashlib.sha256(), hashlib.sha256()
    with connection.cursor().copy("COPY c FROM STDIN") as copy_in:
        for number in range(16 * 1024):
            line = (b"%016d" % number).ljust(1023, b"x") + b"\n"
            there.update(line)
            copy_in.write(line)
    with connection.cursor().copy("COPY c TO STDOUT") as copy_out:
        for chunk in copy_out:
            back.update(chunk)
    assert there.digest() == back.digest()
    connection.commit()
    print("copy")


def notify(connection):
    connection.autocommit = True
    connection.execute("LISTEN news")
    with psycopg.connect(autocommit=True) as other:
        other.execute("SELECT pg_notify('news', %s)", ["n1"])
    told = next(connection.notifies(timeout=60))
    assert (told.channel, told.payload) == ("news", "n1"), told
    print("notify")


def when_asleep(backend, do):
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    with psycopg.connect(autocommit=True) as other:
        while other.execute(asleep, [backend]).fetchone() != (1,):
            time.sleep(0.02)
    do()


def cancel(connection):
    # A cancel names a number of the proxy's own.
    backend = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    for do in (connection.cancel, connection.cancel_safe):
        thread = threading.Thread(target=when_asleep, args=[backend, do])
        thread.start()
        try:
            connection.execute("SELECT pg_sleep(1000)")
        except psycopg.errors.QueryCanceled:
            thread.join()
        else:
            raise AssertionError("nothing was cancelled")
        assert connection.execute("SELECT 42").fetchone() == (42,)
    print("cancel")


def wrong_password():
    try:
        psycopg.connect(password="wrong")
    except psycopg.OperationalError as error:
        assert 'password authentication failed for user "app"' in str(error), error
    else:
        raise AssertionError("a wrong password was right")
    print("wrong password")


if __name__ == "__main__":
    with psycopg.connect(options="-c search_path=public,b", application_name="psycopg") as main:
        for step in (parameters, transactions, prepared, pipeline, copy, notify, cancel):
            step(main)
    wrong_password()
