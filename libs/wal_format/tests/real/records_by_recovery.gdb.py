# Runs a PostgreSQL 14 server that recovers, and prints where each record that it reads begins and ends. Whenever the
# server asks its reader for the next record, the reader's state still holds the last one: ReadRecPtr and EndRecPtr
# (access/xlogreader.h; three callbacks, the system identifier and one pointer are before them).
import struct
import gdb

READ_REC_PTR_OFFSET = 40


class NextRecord(gdb.Breakpoint):
    def stop(self):
        state = int(gdb.parse_and_eval("(unsigned long) $rdi"))
        fields = gdb.selected_inferior().read_memory(state + READ_REC_PTR_OFFSET, 16)
        start, end = struct.unpack("<QQ", bytes(fields))
        if start < end:
            print("record %x %x" % (start, end))
        return False


gdb.execute("set pagination off")
gdb.execute("handle SIGUSR1 SIGUSR2 SIGALRM SIGPIPE nostop noprint pass")
gdb.execute("set breakpoint pending on")
NextRecord("*XLogReadRecord")
gdb.execute("run")
