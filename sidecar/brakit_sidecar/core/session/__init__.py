"""One session as pure state: stimuli come in as calls, and effects come out as values.

worker      one worker's record: a phase, moved by a table of transitions
owner       the process or connection whose end is the session's end
session     one session: applies stimuli to its workers and its owner
table       all open sessions: opens, finds, ends and seals them
timing      how long a session waits for its workers
effects     what the daemon must do after a stimulus
totals      what producers reported, merged by the rules
records     a session as records of its journal; replay reads them back
"""
