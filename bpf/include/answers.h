/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Follows the answers to native requests (RFC 9112 sections 2 to 7), so that it is known when the
 * last byte of each has reached the client's queue.
 *
 * on_send() counts what was asked (conn->native). The bytes of answers pass by where they become
 * visible to the client: on_receive() for those that come by TCP, on_answer() for those that the
 * server's send puts straight into the client's queue. Each byte passes exactly one of them, and in
 * order. What is not plainly HTTP/1.1 with a length leaves the connection in PHASE_DEAD: from then
 * on nobody knows where an answer ends, and native is the only lane that is left.
 */
#ifndef BEEWAY_ANSWERS_H
#define BEEWAY_ANSWERS_H

#include "http.h"
#include "body.h"

#define PIECE_BYTES 512		/* of an answer looked at in one step */
#define PIECES 512		/* steps in one run: more than a skb or a message can need */

#define WINDOW (LINE_BYTES + PIECE_BYTES)

static __always_inline bool in_status_line(struct answers *a, struct scratch *s, u32 at)
{
	u64 code = word_at(s, at + 8);
	u32 hundreds = (u8)(code >> 8) - '0', tens = (u8)(code >> 16) - '0';
	u32 ones = (u8)(code >> 24) - '0';

	if ((word_at(s, at) & ~(1ull << 56)) != WORD8('H', 'T', 'T', 'P', '/', '1', '.', '0'))
		return false;
	if ((u8)code != ' ' || hundreds > 9 || tens > 9 || ones > 9)
		return false;
	a->status = hundreds * 100 + tens * 10 + ones;
	return a->status >= 100;
}

/* Reads digits up to `end` into the length of the body. */
static __always_inline bool in_length(struct answers *a, struct scratch *s, u32 at, u32 end)
{
	u64 value = 0;

	if (a->flags)
		return false;
	for (u32 i = 0; i < 4 && byte_at(s, at) == ' '; i++)
		at++;
	if (at >= end)
		return false;
	for (u32 i = 0; i < 18; i++) {
		u8 digit = byte_at(s, at) - '0';

		if (digit > 9)
			break;
		value = value * 10 + digit;
		at++;
	}
	a->body.left = value;
	a->flags = ANSWER_LENGTH;
	return at == end;
}

static __always_inline bool in_coding(struct answers *a, struct scratch *s, u32 at, u32 end)
{
	if (a->flags)
		return false;
	for (u32 i = 0; i < 4 && byte_at(s, at) == ' '; i++)
		at++;
	a->flags = ANSWER_CHUNKED;
	return at + 7 == end && (word_at(s, at) | LOWER8) << 8 ==
				WORD8(0, 'c', 'h', 'u', 'n', 'k', 'e', 'd');
}

static __always_inline void answer_ended(struct answers *a)
{
	a->body.phase = PHASE_HEAD;
	a->answered++;
}

/* The empty line behind a head: what follows it. */
static __always_inline bool head_ended(struct answers *a)
{
	u64 bit = 1ull << (a->answered % 64), bare = a->heads & bit;
	u32 status = a->status, flags = a->flags;

	a->status = 0;
	a->flags = 0;
	if (status == 101)
		return false;
	if (status < 200)
		return true;
	if (bare)
		__sync_fetch_and_and(&a->heads, ~bit);
	if (bare || status == 204 || status == 304) {
		answer_ended(a);
	} else if (flags == ANSWER_CHUNKED) {
		a->body.phase = PHASE_CHUNK_SIZE;
		a->body.left = 0;
		a->body.digits = 0;
		a->body.last = 0;
	} else if (flags != ANSWER_LENGTH) {
		return false;
	} else if (a->body.left) {
		a->body.phase = PHASE_BODY;
	} else {
		answer_ended(a);
	}
	return true;
}

enum field { FIELD_OTHER, FIELD_LENGTH, FIELD_CODING };

static __always_inline enum field field_at(struct scratch *s, u32 at)
{
	u64 word = word_at(s, at) | LOWER8;

	if (word == WORD8('c', 'o', 'n', 't', 'e', 'n', 't', '-') && byte_at(s, at + 14) == ':' &&
	    (word_at(s, at + 6) | LOWER8) == WORD8('t', '-', 'l', 'e', 'n', 'g', 't', 'h'))
		return FIELD_LENGTH;
	if (word == WORD8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') && byte_at(s, at + 17) == ':' &&
	    (word_at(s, at + 9) | LOWER8) == WORD8('e', 'n', 'c', 'o', 'd', 'i', 'n', 'g'))
		return FIELD_CODING;
	return FIELD_OTHER;
}

/* One line of a head, without its newline. */
__weak __noinline int answer_line(struct answers *a, struct scratch *s, u32 at, u32 end)
{
	u8 first;

	if (!a || !s)
		return false;
	first = byte_at(s, at);
	if (a->skip) {
		a->skip = 0;
		return true;
	}
	if (end > at && byte_at(s, end - 1) == '\r')
		end--;
	if (!a->status)
		return in_status_line(a, s, at);
	if (end == at)
		return head_ended(a);
	/* a line that continues the one before */
	if (first == ' ' || first == '\t')
		return false;
	switch (field_at(s, at)) {
	case FIELD_LENGTH:
		return in_length(a, s, at + 15, end);
	case FIELD_CODING:
		return in_coding(a, s, at + 18, end);
	default:
		return true;
	}
}

/* Keeps the beginning of a line whose end has not come. Of a long one nothing is kept, if it is of
 * no concern. */
static __always_inline bool keep_line(struct answers *a, struct scratch *s, u32 at, u32 end)
{
	u32 length = end - at;

	if (length > LINE_BYTES) {
		a->skip = 1;
		a->held = 0;
		return a->status && field_at(s, at) == FIELD_OTHER;
	}
	a->held = length;
	return !bpf_probe_read_kernel(a->line, LINE_BYTES, &s->head[at & HEAD_MASK]);
}

/* Whether a line may matter, by its first byte: a blank or the end of its line, `c` or `t`. */
static __always_inline bool matters(u8 first)
{
	return first <= ' ' || (first | 0x20) == 'c' || (first | 0x20) == 't';
}

/*
 * Follows a head from the line at `at` on; the offset up to which it is understood, 0 on failure.
 * A plain loop, which costs less than an iterator; each turn takes two words, or ends a line.
 */
__weak __noinline u32 answer_head(struct answers *a, struct scratch *s, u32 at, u32 end)
{
	u32 line = at;

	if (!a || !s)
		return 0;
	for (u32 i = 0; i < WINDOW / 4; i++) {
		u64 hits = find(word_at(s, at), '\n'), more = find(word_at(s, at + 8), '\n');

		if (!(hits | more)) {
			at += 16;
			if (at >= end)
				break;
			continue;
		}
		at += (hits ? first_mark(hits) : 8 + first_mark(more)) + 1;
		if (at > end)
			break;
		if (!a->status || a->skip || matters(byte_at(s, line))) {
			if (!answer_line(a, s, line, at - 1))
				return 0;
			if (a->body.phase != PHASE_HEAD)
				return at;
		}
		line = at;
		if (at >= end)
			break;
	}
	if (at < end)
		return line;
	return line >= end || a->skip || keep_line(a, s, line, end) ? end : 0;
}

/* Takes n bytes off a body or a chunk's data. */
static __always_inline void answer_data(struct answers *a, u64 n)
{
	a->body.left -= n;
	if (a->body.left)
		return;
	a->body.digits = 0;
	if (a->body.phase == PHASE_BODY)
		answer_ended(a);
	else
		a->body.phase = PHASE_CHUNK_END;
}

static __always_inline bool in_data(const struct answers *a)
{
	return a->body.phase == PHASE_BODY || a->body.phase == PHASE_CHUNK_DATA;
}

/* Follows a head, data, or a byte of what is between chunks, from s->cursor on. */
static __always_inline void answer_step(struct answers *a, struct scratch *s, u32 end)
{
	u32 at = s->cursor;

	if (a->body.phase == PHASE_HEAD) {
		at = answer_head(a, s, at, end);
		if (!at)
			a->body.phase = PHASE_DEAD;
		s->cursor = at;
	} else if (in_data(a)) {
		u64 here = end - at;

		if (here > a->body.left)
			here = a->body.left;
		answer_data(a, here);
		s->cursor = at + here;
	} else {
		if (!frame_byte(&a->body, byte_at(s, at)))
			a->body.phase = PHASE_DEAD;
		else if (a->body.phase == PHASE_HEAD)
			answer_ended(a);
		s->cursor = at + 1;
	}
}

/* Follows the n bytes of an answer that lie in the scratch space behind LINE_BYTES. */
__weak __noinline int answer_piece(struct answers *a, struct scratch *s, u32 n)
{
	u32 end = LINE_BYTES + n, i;

	if (!a || !s)
		return 0;
	s->cursor = LINE_BYTES;
	if (a->held) {
		s->cursor -= a->held;
		bpf_probe_read_kernel(&s->head[s->cursor & (LINE_BYTES - 1)],
				      a->held & (2 * LINE_BYTES - 1), a->line);
		a->held = 0;
	}
	bpf_for(i, 0, WINDOW) {
		if (s->cursor >= end || a->body.phase == PHASE_DEAD)
			break;
		answer_step(a, s, end);
	}
	return 0;
}

/* Reads n bytes at an offset of a message or skb. */
typedef long (*load_fn)(void *from, u32 at, u32 n, void *to);

/* Follows the next bytes of `size`; false when that cannot be. */
static __always_inline bool
follow_step(struct answers *a, struct scratch *s, void *from, u32 size, load_fn load)
{
	u32 at = s->offset, n = size - at;

	if (in_data(a)) {
		if (n > a->body.left)
			n = a->body.left;
		answer_data(a, n);
	} else {
		if (n > PIECE_BYTES)
			n = PIECE_BYTES;
		barrier_var(n);
		if (!n || load(from, at, n, &s->head[LINE_BYTES]))
			return false;
		answer_piece(a, s, n);
	}
	s->offset = at + n;
	return a->body.phase != PHASE_DEAD;
}

/* Follows `size` bytes of answers; nobody else follows this connection's meanwhile. */
static __always_inline void
follow_answers(struct answers *a, void *from, u32 size, load_fn load)
{
	struct scratch *s;
	u32 i;

	if (a->body.phase == PHASE_DEAD)
		return;
	if (in_data(a) && a->body.left >= size) {
		answer_data(a, size);
		return;
	}
	s = claim_scratch();
	if (!s) {
		a->body.phase = PHASE_DEAD;
		return;
	}
	s->offset = 0;
	bpf_for(i, 0, PIECES) {
		if (s->offset >= size || !follow_step(a, s, from, size, load))
			break;
	}
	/* cut short: where answers end is not known any more */
	if (s->offset < size)
		a->body.phase = PHASE_DEAD;
	release_scratch(s);
}

/* Request `number` of a connection, from 0, is a HEAD: its answer has no body. */
static __always_inline void expect_bare(struct answers *a, u32 number)
{
	if (number - a->answered >= 63)
		a->lost = 1;
	__sync_fetch_and_or(&a->heads, 1ull << (number % 64));
}

/* Whether bytes of answers to `asked` native requests may still come. */
static __always_inline bool answers_owed(const struct answers *a, u32 asked)
{
	return a->lost || a->body.phase != PHASE_HEAD || asked != a->answered || a->status ||
	       a->held || a->skip;
}

#endif
