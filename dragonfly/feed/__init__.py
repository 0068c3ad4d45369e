"""Changes of the API's objects, as clients see them: the part that streams and webhooks share.

* `views`: what each kind looks like
* `shown`: `Shown`, one object at one revision; `Composer` puts it together from records
* `changes`: `Change`, one object before and after a revision; `changes_at` finds them
* `view`: `View` and `Filter`, what one client follows; `view.seen(change)` is the change as it sees it, or None
* `audience`: whom a change may concern, by what views ask for
* `history`: `History`, recent changes in memory, in order
* `earlier`: what was before the history, read from etcd again
* `frames`: changes as JSON and as Server-Sent Events
* `channel`: what the followers of one view share
* `feed`: `Feed` keeps the history from a mirror, finds positions, takes snapshots, wakes who waits
"""
