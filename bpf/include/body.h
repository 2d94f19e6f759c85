/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Follows the framing of a request's body (RFC 9112 sections 6 and 7.1) across messages. */
#ifndef BEEWAY_BODY_H
#define BEEWAY_BODY_H

#include "http.h"

#define CHUNK_STEPS 128
#define EXTENSION 0x80	/* flag in digits: behind the digits of a chunk size */

/* The framing of what follows a head. */
static __always_inline void expect_body(struct framing *f, const struct head *h)
{
	f->left = h->chunked ? 0 : h->body;
	f->digits = 0;
	f->last = 0;
	f->phase = h->chunked ? PHASE_CHUNK_SIZE : h->body ? PHASE_BODY : PHASE_HEAD;
}

/* Takes up to n bytes off a body or a chunk's data; how many there were. */
static __always_inline u64 take_data(struct framing *f, u64 n)
{
	if (n > f->left)
		n = f->left;
	f->left -= n;
	if (!f->left) {
		f->phase = f->phase == PHASE_BODY ? PHASE_HEAD : PHASE_CHUNK_END;
		f->digits = 0;
	}
	return n;
}

static __always_inline int hex_digit(u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static __always_inline bool in_chunk_size(struct framing *f, u8 c)
{
	int digit = hex_digit(c);

	if (c == '\n') {
		if (f->last != '\r' || !(f->digits & 0x7f))
			return false;
		f->phase = f->left ? PHASE_CHUNK_DATA : PHASE_TRAILER;
		f->digits = 0;
	} else if (f->last == '\r') {
		return false;
	} else if (c == '\r' || c == ';') {
		f->digits |= EXTENSION;
	} else if (f->digits & EXTENSION) {
		if (c < ' ' && c != '\t')
			return false;
	} else if (digit < 0 || f->digits >= 15) {
		return false;
	} else {
		f->left = f->left << 4 | digit;
		f->digits++;
	}
	f->last = f->phase == PHASE_CHUNK_SIZE ? c : 0;
	return true;
}

/*
 * One byte of framing; false when it must not be there. A function of its own, so that the verifier
 * looks at its branches once and not in each turn of the loop.
 */
__weak __noinline int frame_byte(struct framing *f, u32 byte)
{
	u8 c = byte;

	if (!f)
		return false;
	switch (f->phase) {
	case PHASE_CHUNK_SIZE:
		return in_chunk_size(f, c);
	case PHASE_CHUNK_END:
		if (c != (f->digits ? '\n' : '\r'))
			return false;
		if (f->digits++) {
			f->phase = PHASE_CHUNK_SIZE;
			f->digits = 0;
			f->last = 0;
			f->left = 0;
		}
		return true;
	case PHASE_TRAILER:
		if (c == '\n') {
			if (f->last != '\r')
				return false;
			if (!f->digits)
				f->phase = PHASE_HEAD;
			f->digits = 0;
		} else if (f->last == '\r') {
			return false;
		} else if (c != '\r') {
			f->digits = 1;
		}
		f->last = c == '\n' ? 0 : c;
		return true;
	}
	return false;
}

/*
 * Walks the chunks in msg from `at`. Returns the offset up to which the bytes are understood: the
 * end of the body (the phase is then PHASE_HEAD), of the message, or of this run's steps. With
 * `apart`, data and framing are not walked in one run. 0: the framing is broken.
 */
__weak __noinline u32 walk_chunks(struct sk_msg_md *msg, struct framing *f, u32 at, u32 apart)
{
	u32 size = msg->size, i;
	bool in_data;

	if (!f)
		return 0;
	in_data = f->phase == PHASE_CHUNK_DATA;
	bpf_for(i, 0, CHUNK_STEPS) {
		u8 *data;

		if (at >= size || f->phase == PHASE_HEAD)
			break;
		if (apart && in_data != (f->phase == PHASE_CHUNK_DATA))
			break;
		if (f->phase == PHASE_CHUNK_DATA) {
			at += take_data(f, size - at);
			continue;
		}
		if (bpf_msg_pull_data(msg, at, at + 1, 0))
			return 0;
		data = msg->data;
		if ((void *)(data + 1) > msg->data_end || !frame_byte(f, *data))
			return 0;
		at++;
	}
	return at;
}

#endif
