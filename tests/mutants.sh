#!/bin/bash
# Planted bugs: one line each, in a scratch copy, and each must turn a test red. What survives is
# told by name: it is a hole in the tests, or a line that nobody needs.
#
#   tests/mutants.sh                all of them
#   tests/mutants.sh ring_ wheel_   those whose names begin so
#   tests/mutants.sh --check        none: only whether each still finds its line
#   MUTANTS_DIR=… MUTANTS_SEEDS=…   where to work, and how many seeds the simulation runs
#   MUTANTS_GREEN=yes               the tests are known to pass without a planted bug
#
# Not part of the test run, which only holds that each still finds its line (`tests/tidy.rs`): each
# mutant is a build, so all of them take hours.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
seeds=${MUTANTS_SEEDS:-1000}
wanted=("${@:-}") # Without a name: that which every name begins with.
killed=0
survivors=()
unmatched=()

if [ "${wanted[0]}" != --check ]; then
    work=${MUTANTS_DIR:-$(mktemp -d)}
    [ -n "${MUTANTS_DIR:-}" ] || trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"
    # What is versioned, as it is now: whatever becomes of the tree meanwhile.
    find "$work" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    (cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$work" 2>/dev/null)
    cp -r "$work/src" "$work/whole"
fi
export CARGO_TARGET_DIR="${work:-}/target" SIM_SEEDS="$seeds" RUST_BACKTRACE=0 CARGO_PROFILE_DEV_DEBUG=0

red() { # red TEST-ARGUMENTS…: whether these tests fail
    ! (cd "$work" && timeout 900 cargo test --quiet "$@" >"$work/log" 2>&1)
}

mutant() { # mutant NAME FILE SED-EXPRESSION [TEST-ARGUMENTS]: whatever else, these are tried first
    local name=$1 file=$2 expression=$3 first=${4:-} by
    if [ "${wanted[0]}" = --check ]; then
        if [ ! -f "$root/$file" ] || sed "$expression" "$root/$file" | cmp -s - "$root/$file"; then
            unmatched+=("$name")
        fi
        return
    fi
    local prefix chosen=
    for prefix in "${wanted[@]}"; do
        case $name in "$prefix"*) chosen=yes ;; esac
    done
    [ -n "$chosen" ] || return
    sed -i "$expression" "$work/$file"
    if cmp -s "$work/whole/${file#src/}" "$work/$file"; then
        echo "DOES NOT APPLY  $name ($file)"
        unmatched+=("$name")
        return
    fi
    by=
    for tests in ${first:+"$first"} "${suites[@]}"; do
        # shellcheck disable=SC2086
        if red $tests; then
            by=$tests
            break
        fi
    done
    if grep -q '^error\(\[E[0-9]*\]\)\?: ' "$work/log" && ! grep -q 'test result: FAILED' "$work/log" \
        && ! grep -q 'test failed' "$work/log"; then
        echo "DOES NOT COMPILE  $name ($file)"
        grep -m3 -A3 '^error' "$work/log"
        unmatched+=("$name")
        cp "$work/whole/${file#src/}" "$work/$file"
        return
    fi
    cp "$work/whole/${file#src/}" "$work/$file"
    if [ -n "$by" ]; then
        killed=$((killed + 1))
        echo "killed    $name  ($by)"
    else
        survivors+=("$name")
        echo "SURVIVED  $name"
    fi
}

# The last ones are slow and run for what the others let pass.
suites=("--test simulation" "--lib" "--test no_alloc --test long_lines --test murmurs --test wire_http"
    "--test readers --test sse --test approvals")
if [ "${wanted[0]}" != --check ] && [ -z "${MUTANTS_GREEN:-}" ]; then
    for tests in "${suites[@]}"; do
        # shellcheck disable=SC2086
        if red $tests; then
            echo "without a planted bug, $tests fails already:"
            tail -5 "$work/log"
            exit 1
        fi
    done
fi

# The floor.
mutant arena_generation src/base/arena.rs 's/(\*generation + 1) & GENERATION_MASK/*generation \& GENERATION_MASK/'
mutant ring_lapped src/base/ring.rs 's/if position < self.base() {/if false \&\& position < self.base() {/'
mutant ring_evicted src/base/ring.rs 's/self.evicted = forgotten.seq;/let _ = forgotten;/'
mutant ring_resume_off_by_one src/base/ring.rs '/pub fn after/,/^    }/s/mark.seq <= seq/mark.seq < seq/'
mutant ring_newest_cuts_a_frame src/base/ring.rs '/pub fn newest/,/^    }/s/map_or(end, |mark| mark.start)/map_or(end, |mark| mark.start + 1)/'
mutant ring_run_forgets_the_frame_begun src/base/ring.rs 's/(next != position \&\& position < end).then_some(position)/None::<u64>/'
mutant list_append_length src/base/list.rs 's/self.length += other.length;/self.length += 0 * other.length;/'
mutant wheel_late src/base/wheel.rs 's/let due = due_ms.div_ceil(STEP_MS).clamp/let due = (due_ms.div_ceil(STEP_MS) + 100).clamp/'
mutant wheel_early src/base/wheel.rs 's/let due = due_ms.div_ceil(STEP_MS).clamp/let due = (due_ms \/ STEP_MS).clamp/'
mutant lines_skip_forgets_itself src/base/lines.rs 's/self.skipped = Some(self.skipped.unwrap_or(0) + dropped);/self.skipped = None.or(Some(dropped).filter(|_| false));/'
mutant text_splits_characters src/base/text.rs 's/return if needs > length { length } else { 0 };/return if needs > length + 1 { length } else { 0 };/'
mutant log_shows_hidden src/core/log.rs 's/            self.visible = visible;/            self.visible = self.ring.head();/'

# Connections.
mutant held_answers_go_at_once src/core/api/mod.rs '/fn finish_answer/,/^    }/s/&& seq > self.publisher.visible()/\&\& seq > u64::MAX - 1/'
mutant readers_not_counted_out src/core/clients.rs 's/log.readers -= 1;/log.readers -= 0;/'
mutant stall_never src/core/deadlines.rs '/fn connection_due/,/^    }/s/stalled_ms >= stall_ms {/stalled_ms >= stall_ms + 1_000_000 {/'
mutant stall_at_once src/core/deadlines.rs '/fn connection_due/,/^    }/s/Flow::Blocked \&\& stalled_ms >= stall_ms {/Flow::Blocked {/'
mutant finished_too_early src/core/server.rs 's/self.agents.is_empty() && self.connections.is_empty()/self.agents.is_empty()/'
mutant woken_readers_forgotten src/core/commit.rs '/pub fn commit/,/^    }/s/self.release_held();/self.release_held(); self.pending = Default::default();/'
mutant drain_keeps_listening src/core/server.rs 's/self.effects.push_back(Effect::CloseListeners);/let _ = Effect::CloseListeners;/'
mutant bodies_not_given_back src/core/clients.rs 's/self.bodies_size -= exchange.counted.1;/let _ = exchange.counted.1;/'

# Streams.
mutant heartbeat_inside_a_frame src/core/streams.rs '/fn heartbeat_due/,/^    }/s/if connection.place != Place::Waiting {/if connection.place == Place::Pending {/'
mutant filter_passes_over_silently src/core/streams.rs 's/reader.passed_over |= start != reader.position;/reader.passed_over |= false;/'
mutant gap_not_told src/core/streams.rs 's/if seq >= log.ring.evicted() {/if seq > 0 {/'
mutant gap_id_off_by_one src/core/streams.rs 's/newest.id = Some(first.map_or(visible_seq, |mark| mark.seq - 1));/newest.id = Some(first.map_or(visible_seq, |mark| mark.seq));/'
mutant closed_stream_ends_early src/core/streams.rs 's/session.unusual.closed_at.is_some() && session.feed.log.hidden() == 0/session.unusual.closed_at.is_some()/'
mutant shutdown_before_the_end src/core/streams.rs 's/rare.replay_end = log.visible().max(reader.position);/rare.replay_end = reader.position;/'
mutant owners_ignored src/core/streams.rs 's/is_none_or(|owners| owners.contains(&mark.owner))/is_none_or(|_| true)/'
mutant replay_counts_one_more src/core/streams.rs 's/rare.replay_count = count;/rare.replay_count = count + 1;/'
mutant heartbeats_all_at_once src/core/streams.rs 's/(place \* (most + 1)) >> 32/(place * (most + 1)) >> 63/' --lib
mutant neighbours_beat_apart src/core/streams.rs 's/u64::from(index \/ NEIGHBOURS)/u64::from(index)/' --lib
mutant beat_of_another_log src/core/streams.rs 's/if (self.beat.whose, self.beat.wall_ms, self.beat.seq) != beat {/if (self.beat.wall_ms, self.beat.seq) != (beat.1, beat.2) {/'
mutant beat_rest_repeats src/core/streams.rs 's/&text\[text.len() - rest..\]/\&text[text.len() - rest - 1..]/'

# Sessions and agents.
mutant approvals_left_open src/core/dispatch.rs 's/self.withdraw_approvals(key, "turn_ended", |approval| approval.agent_id.is_none());/let _ = key;/'
mutant queue_size_leaks src/core/dispatch.rs '/fn cancel_prompt/,/^    }/s/self.queue_size -= prompt.size();/let _ = prompt.size();/'
mutant start_queue_forgotten src/core/agents.rs '/fn agent_over/,/^    }/s/        self.serve_start_queue();/        let _ = key;/'
mutant waiting_client_forgotten src/core/dispatch.rs '/fn cancel_prompt/,/^    }/s/self.prompt_ended(key, &prompt.id, seq);/let _ = seq;/'
mutant text_in_the_wrong_turn src/core/dispatch.rs '/fn start_turn/,/^    }/s/self.publisher.flush(feed);/let _ = \&feed;/' "--test murmurs"
mutant text_in_a_turn_of_its_own src/core/dispatch.rs '/fn ensure_turn/,/^    }/s/self.publisher.flush(&mut session.feed);/let _ = \&session.feed;/' "--test murmurs"
mutant murmurs_all_begin_anew src/core/turn.rs '/impl Offsets/,/^}/s/\*offset += utf16_length(text);/let _ = utf16_length(text);/' "--test murmurs"
mutant pause_too_late src/core/pipes.rs '/fn is_paused/,/^    }/s/as u64 \/ 2/as u64 * 8/'
mutant sweep_only_once src/core/agent.rs 's/self.sweep = if killed == 0 || /self.sweep = if true || killed == 0 || /'
mutant waits_for_the_grandchild src/core/agent.rs 's/self.stdout_ended && self.stderr_ended || given_up/self.stdout_ended \&\& self.stderr_ended || given_up \&\& false/'
mutant never_kills src/core/agent.rs 's/Life::Stopping(Rung::Terminate) if now_ms >= self.rung_due => self.kill(key),/Life::Stopping(Rung::Terminate) if now_ms >= u64::MAX => self.kill(key),/'
mutant input_before_its_event src/core/agent.rs '/pub fn release/,/^    }/s/&& seq <= visible/\&\& seq <= visible + 1_000_000/'
mutant wakes_for_ever src/core/agent.rs 's/_ if self.end_told || self.stdout_ended && self.stderr_ended => u64::MAX,/_ if self.stdout_ended \&\& self.stderr_ended => u64::MAX,/'
mutant text_out_of_order src/core/publisher.rs '/pub fn publish(/,/^    }/s/self.flush(feed);/let _ = \&feed;/'
mutant numbers_repeat src/core/publisher.rs '/fn encode(/,/^    }/s/self.seq += 1;/self.seq += u64::from(self.seq % 64 != 0);/'
mutant tools_left_open src/core/turn.rs 's/let tools = std::mem::take(&mut self.tools).into_iter();/let tools = std::mem::take(\&mut self.tools).into_iter().skip(1);/'
mutant other_command_same_id src/core/prompts.rs 's/Some(taken) if taken.digest == digest(command, images) =>/Some(taken) if digest(command, images) == digest(command, images) =>/'
mutant end_of_a_prompt_forgotten src/core/waits.rs 's/session.prompts.ended(prompt_id, seq);/let _ = (session, seq);/' "--test journal"
mutant history_ends_with_the_ring src/core/api/events.rs 's/get(key).filter(|_| !more)/get(key).filter(|_| !more \&\& marks.len() < limit)/' --lib
mutant history_tells_text_twice src/shell/journal.rs 's/if page.filter.takes(kind, superseded) {/if page.filter.takes(kind, superseded \&\& false) {/' "--test journal"
mutant older_copy_believed src/core/epochs.rs 's/start.reached.unwrap_or(u64::MAX)/start.reached.map_or(u64::MAX, |_| u64::MAX)/' --lib
mutant restart_is_activity src/core/restore.rs 's/self.publisher.restores = true;/self.publisher.restores = false;/' --lib
mutant our_stop_is_the_commands_end src/core/agents.rs 's/if draining \&\& suspending \&\& !interrupted {/if draining \&\& suspending \&\& dialect != Dialect::Lines {/' "--test drain"
mutant approval_answered_twice src/core/approvals.rs 's/#\[derive(Debug)\]/#[derive(Clone, Debug)]/; s/Some(self.open.remove(at))/Some(self.open[at].clone())/' --lib
mutant another_approval_is_taken src/core/approvals.rs '/pub fn decide/,/^    }/s/Some(self.open.remove(at))/Some(self.open.remove(at - at))/' --lib
mutant approvals_out_of_order src/core/approvals.rs '/pub fn decide/,/^    }/s/Some(self.open.remove(at))/Some(self.open.swap_remove(at))/' --lib
mutant long_line_not_handed_on src/core/pipes.rs 's/if was_first {/if was_first \&\& agent_key.index == u32::MAX {/' "--test long_lines"
mutant long_line_without_a_deadline src/core/pipes.rs '/fn want_long_line/,/^    }/s/if self.long_line.front() == Some(&agent_key) {/if !self.long_line.is_empty() {/' "--test long_lines"
mutant long_line_never_dropped src/core/pipes.rs '/fn long_line_due/,/^    }/s/if since == 0 ||/if true ||/' "--test long_lines"
mutant long_line_of_two src/core/dialect.rs '/fn long_line_over/,/^    }/s/if agent.emission.is_some() {/if agent.emission.is_none() \&\& lent {/' "--test long_lines"

# Journals, and what is left of them.
mutant cursor_of_a_lost_start src/core/epochs.rs 's/self.starts\[at..\].windows(2).all/self.starts[at..].windows(2).take(0).all/'
mutant cursor_outlives_the_boot src/core/epochs.rs 's/let same_boot = start.boot_id == boot_id/let same_boot = start.boot_id != ""/'
mutant broken_start_believed src/core/epochs.rs 's/Durability::Sync => !start.broken,/Durability::Sync => true,/'
mutant start_repeats_numbers src/core/epochs.rs '/pub fn next_seq/,/^    }/s/last.first_seq + STEP/last.first_seq + 1/'
mutant torn_frame_kept src/core/journal.rs "s/ && memchr::memchr(0, frame).is_none()//"
mutant hole_not_evicted src/core/journal.rs '/pub fn wrote/,/^    }/s/self.evict_to(lost.to);/let _ = lost.to;/'
mutant retention_not_told src/core/journal.rs '/pub fn forget_oldest/,/^    }/s/self.evict_to(segment.last_seq.min(until));/let _ = until;/'
mutant tail_not_cut src/shell/journal.rs 's/        file.set_len(length)?;/        let _ = length;/'
mutant cut_not_synced src/shell/journal.rs 's/        file.sync_all() \/\/ Or the next.*/        Ok::<(), io::Error>(())/'
mutant erased_name_comes_back src/shell/journal.rs 's/    sync_directory(sessions)?;/    let _ = sync_directory;/'
mutant settled_though_failing src/shell/journal.rs 's/settled.is_ok() \&\& !self.is_failing/settled.is_ok()/' --lib
mutant queue_never_in_doubt src/shell/journal.rs 's/one.queue_in_doubt |= !epochs/one.queue_in_doubt |= one.torn \&\& !epochs/' --lib
mutant only_the_last_end_counts src/core/epochs.rs 's/let at = self.starts.partition_point(|start| start.first_seq <= seq).saturating_sub(1);/let at = self.starts.len() - usize::from(seq > 0);/' --lib
mutant segment_not_synced src/shell/journal.rs 's/            self.sync_parts(batch)?;/            let _ = batch;/'
mutant failure_not_marked src/shell/journal.rs 's/self.is_marked = self.mark_broken().is_ok();.*/self.is_marked = true;/'
mutant shown_before_written src/core/commit.rs '/fn hand_over/,/^    }/s/let dirty = self.publisher.take_dirty();/self.publisher.show(self.publisher.seq()); let dirty = self.publisher.take_dirty();/'
mutant the_end_waits_for_the_disk src/core/commit.rs '/fn append_failed/,/^    }/s/        self.show(self.publisher.seq(), keys());/        let _ = keys;/' --lib
mutant told_after_the_end src/core/commit.rs '/fn append_failed/,/^    }/s/if session.unusual.closed_at.is_some() {/if false {/'
mutant beat_cuts_the_past src/core/streams.rs '/fn heartbeat_due/,/^    }/s/if !self.keeper.keeps() && log/if log/'
mutant shutdown_skips_the_past src/core/streams.rs 's/let over = rare.past.is_none() || !rare.shutting;/let over = true;/'
mutant seam_names_the_newest src/core/streams.rs 's/mark.or(Some(log.ring.evicted()).filter(|seq| \*seq > 0))/mark.or(log.latest_seq())/' --lib
mutant closed_past_ends_early src/core/past.rs 's/session.unusual.closed_at.is_some() \&\& session.feed.log.hidden() == 0/session.unusual.closed_at.is_some()/' --lib
mutant shutdown_tears_a_frame src/core/past.rs 's/if shutting \&\& !piece.within \&\& past.beyond == 0 {/if shutting {/'
mutant blocked_within_a_frame src/core/past.rs 's/unsent || self.torn || self.beyond > 0/unsent || self.beyond > 0/'
mutant merge_skips_the_unwritten src/core/past.rs 's/let built = self.written_up_to(self.owners_of(key), built);/let built = visible_seq;/'
mutant running_prompt_runs_again src/core/restore.rs '/fn started/,/^    }/s/self.queue.remove(at)/self.queue[at].clone()/'
mutant queue_forgotten src/core/restore.rs '/fn queued/,/^    }/s/self.queue.insert(.*/let _ = (position, prompt);/'
mutant approval_stays_open src/core/restore.rs 's/self.withdraw_approvals(key, "server_restarted", |_| true);/let _ = key;/'
mutant archive_forgotten src/core/restore.rs 's/Some("archived") => self.archived = true,/Some("archived") => {}/' --lib
mutant silenced_by_a_failing_batch src/core/commit.rs '/fn append_failed/,/^    }/s/self.show_everything(); \/\/ Also.*//' --lib
mutant doubt_forgotten src/core/commit.rs 's/if failure.in_doubt {/if failure.in_doubt \&\& false {/' --lib
mutant doubtful_bytes_believed src/shell/journal.rs 's/unsettled.settle(&dir.join("sessions"), is_broken)/unsettled.settle(\&dir.join("sessions"), false)/' --lib
mutant doubt_of_the_last_start_alone src/core/epochs.rs '/pub fn doubtful_from/,/^    }/s/(at + 1)/(at + 9)/' --lib
mutant closed_segment_trusted src/shell/journal.rs '/fn begin_segment/,/^    }/s/in_doubt(&path, &error))?/failure(\&path, \&error))?/' --lib
mutant torn_line_stays src/shell/journal.rs '/fn note(/,/^    }/s/file.set_len(self.epochs_end)/Ok::<(), io::Error>(())/' --lib
mutant unread_is_gone src/shell/journal.rs '/^fn unreadable/,/^}/s/_ => ReadFailure::Damaged.*/_ => ReadFailure::Gone,/' --lib
mutant hole_not_scanned src/shell/journal.rs 's/!covered || has_hole || is_new;/!covered || has_hole \&\& is_new || is_new;/' --lib
mutant page_ends_with_a_segment src/shell/journal.rs '/pub fn page(/,/^    }/s/Ok(!page.more)/Ok(false)/' --lib
mutant removal_given_up src/core/leftovers.rs 's/leftovers.retry_at = Some(self.now_ms + RETRY_MS);/leftovers.retry_at = None;/' --lib

mutant well_over_a_hole src/core/commit.rs 's/batch.heals = self.can_heal() \&\& .*/batch.heals = self.can_heal();/' --lib
mutant well_before_it_is_removed src/core/commit.rs 's/ \&\& self.keeper.leftovers.is_empty()$//' --lib
mutant ended_before_it_is_well src/core/server.rs 's/None if self.keeper.is_well() =>/None =>/' --lib
mutant told_what_was_not_sent src/core/past.rs 's/            past.last = if start < piece.at { begun } else { whole };//' --lib
mutant pages_without_end src/core/api/events.rs 's/if self.pages_read < most {/if self.pages_read <= most {/' --lib

mutant torn_by_the_end src/core/past.rs 's/if replays \&\& seq > replay_seq \&\& past.beyond == 0 {/if replays \&\& seq > replay_seq {/' --lib
mutant leftovers_uncounted src/core/api/sessions.rs 's/ + creates.count() + leftovers >=/ + creates.count() >=/' --lib
mutant waiters_hold_up_the_end src/core/server.rs 's/exchange.close |= self.is_draining();.*//' "--test drain"
mutant waiters_keep_their_bodies src/core/api/mod.rs 's/exchange.release_body(); \/\/ Others.*//' "--test waits"

mutant turn_of_nobody src/core/agents.rs 's/std::mem::replace(\&mut agent.end_told, true) \&\& !begun/std::mem::replace(\&mut agent.end_told, true)/' "--test murmurs"
mutant half_a_field_is_told src/shell/journal.rs 's/!tells_size(cursor.peek(), length)/false/' --lib

# The door.
mutant any_token_reads src/core/access.rs '/pub fn reach/,/^    }/s/caller.scope >= needed/caller.scope >= needed || needed == Scope::Answer/' --lib
mutant strangers_take_all src/core/clients.rs 's/if is_stranger { KEPT_FROM_STRANGERS } else { KEPT_FROM_GROWTH }/0/' "--test door"
mutant dawdlers_wait src/core/clients.rs 's/                self.refuse_dawdler(key);//' "--test door"
mutant head_of_an_old_time src/core/clients.rs 's/if is_begun { limits.head_timeout_ms } else { limits.keep_alive_ms }/limits.keep_alive_ms/' "--test head_times"
mutant hidden_behind_more src/shell/reactor.rs 's/if ended \&\& self.server.is_waiting(key) {/if ended \&\& false {/' "--test leavers"
mutant first_cookie_alone src/core/access.rs 's/values.take(COOKIES_TRIED_MAX)/values.take(1)/' "--test access"
mutant another_scheme_is_ours src/core/access.rs 's/let ours = !self.is_public_host(host)/let ours = !host.is_empty()/' --lib
mutant agents_let_in src/core/api/login.rs 's/Asking::Known(Asker::Outside) => return Ok(true),/Asking::Known(Asker::Outside | Asker::Gone) => return Ok(true),/' --lib
mutant length_twice src/wire/head.rs 's/if self.length.replace(content_length(value)?).is_some() {/if self.length.replace(content_length(value)?).is_none() \&\& false {/' "--test wire_http"
mutant length_beside_coding src/wire/head.rs 's/(Some(_), Some(_)) => Err(BadRequest::LengthWithCoding),/(Some(coding), Some(_)) => transfer_coding(coding.of(input)),/' "--test wire_http"
mutant host_may_lack src/wire/head.rs 's/None => return Err(BadRequest::HostMissing),/None => {}/' "--test wire_http"
mutant bare_return_taken src/wire/head.rs "s/(b'\\\\r', Some(_)) => return Err(BadRequest::BareCarriageReturn),/(b'\\\\r', Some(_)) => {}/" "--test wire_http"
mutant chunk_size_wraps src/wire/body.rs 's/if digits == SIZE_DIGITS_MAX {/if digits == SIZE_DIGITS_MAX + 9 {/' "--test wire_http"
mutant dots_lead_up src/wire/target.rs 's/matches!(&\*text, "." | "..") ||/matches!(\&*text, ".") ||/' "--test wire_http"
mutant id_of_two_spellings src/wire/sse.rs "s/let leading_zero = .*/let leading_zero = false;/" --lib
mutant waiters_stay src/core/clients.rs 's/if exchange.stage == Stage::Waiting {/if exchange.stage == Stage::Ending {/'
mutant proxies_pass src/core/access.rs 's/if open && head.forwarded {/if open \&\& head.forwarded \&\& self.read_cookie {/' --lib
mutant trust_not_looked_at src/core/trust.rs 's/        if !asks {/        if !asks || key.index > 0 {/' "--test simulation"
mutant answer_about_another src/core/trust.rs 's/(\*hash == brought.hash).then_some(\*is_trusted)?/*is_trusted/' "--test trust"
mutant question_keeps_its_place src/core/trust.rs '/fn trust_looked_at/,/^    }/s/        self.serve_start_queue();//' "--test simulation"
mutant hung_look_keeps_its_place src/core/trust.rs 's/self.now_ms >= look.due/self.now_ms >= look.due + 3_600_000/' "--test hung_disk"
mutant unread_is_remembered src/shell/trust.rs 's/                    is_clear = false;/                    is_clear \&= true;/' --lib
mutant hashed_parts_run_together src/shell/trust.rs 's/ *hasher.update((part.len() as u64).to_le_bytes());//' --lib
mutant unread_looks_unchanged src/shell/trust.rs 's/let mark = metadata.map_or_else/let mark = metadata.filter(|_| false).map_or_else/' --lib
mutant link_is_a_directory src/shell/private.rs 's/libc::O_NOFOLLOW | libc::O_DIRECTORY/libc::O_DIRECTORY/' "--test private"
mutant pipe_is_a_file src/shell/private.rs 's/Ok(found) if found != kind =>/Ok(found) if found != kind \&\& opened.is_err() =>/' "--test private"
mutant hung_journals_waited_for src/shell/reactor.rs 's/if now_ms >= end_at || self/if self/' "--test hung_disk"
mutant last_signal_unheard src/shell/reactor.rs 's/if now_ms >= end_at || self.signals.*/if now_ms >= end_at {/' "--test hung_disk"
mutant cookie_answers src/core/access.rs 's/(entry, Scope::Read))/(entry, entry.scope))/' --lib

if [ "${wanted[0]}" = --check ]; then
    echo "without their line: ${unmatched[*]:-none}"
    exit "$((${#unmatched[@]} > 0))"
fi
echo "$killed killed, ${#survivors[@]} survived: ${survivors[*]:-none}; not tried: ${unmatched[*]:-none}"
[ "$((${#survivors[@]} + ${#unmatched[@]}))" -eq 0 ]
