"""How far a long step is: for a terminal, for a log, and for a command that watches another."""

#: ``extra`` of a log line that only the file gets, since the screen shows the same as progress.
DETAIL = {"is_detail": True}
