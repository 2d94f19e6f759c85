/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Follows the framing of a request's body (RFC 9112 sections 6 and 7.1) across messages. */
#ifndef BEEWAY_BODY_H
#define BEEWAY_BODY_H

#include "maps.h"

#define CHUNK_STEPS 128
#define EXTENSION 0x80	/* flag in conn->digits: behind the digits of a chunk size */

static __always_inline int hex_digit(u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static __always_inline bool in_chunk_size(struct conn *conn, u8 c)
{
	int digit = hex_digit(c);

	if (c == '\n') {
		if (conn->last != '\r' || !(conn->digits & 0x7f))
			return false;
		conn->phase = conn->left ? PHASE_CHUNK_DATA : PHASE_TRAILER;
		conn->digits = 0;
	} else if (conn->last == '\r') {
		return false;
	} else if (c == '\r' || c == ';') {
		conn->digits |= EXTENSION;
	} else if (conn->digits & EXTENSION) {
		if (c < ' ' && c != '\t')
			return false;
	} else if (digit < 0 || conn->digits >= 15) {
		return false;
	} else {
		conn->left = conn->left << 4 | digit;
		conn->digits++;
	}
	conn->last = conn->phase == PHASE_CHUNK_SIZE ? c : 0;
	return true;
}

/*
 * One byte of framing; false when it must not be there. A function of its own, so that the verifier
 * looks at its branches once and not in each turn of the loop.
 */
__weak __noinline int frame_byte(struct conn *conn, u32 byte)
{
	u8 c = byte;

	if (!conn)
		return false;
	switch (conn->phase) {
	case PHASE_CHUNK_SIZE:
		return in_chunk_size(conn, c);
	case PHASE_CHUNK_END:
		if (c != (conn->digits ? '\n' : '\r'))
			return false;
		if (conn->digits++) {
			conn->phase = PHASE_CHUNK_SIZE;
			conn->digits = 0;
			conn->last = 0;
			conn->left = 0;
		}
		return true;
	case PHASE_TRAILER:
		if (c == '\n') {
			if (conn->last != '\r')
				return false;
			if (!conn->digits)
				conn->phase = PHASE_HEAD;
			conn->digits = 0;
		} else if (conn->last == '\r') {
			return false;
		} else if (c != '\r') {
			conn->digits = 1;
		}
		conn->last = c == '\n' ? 0 : c;
		return true;
	}
	return false;
}

/*
 * Walks the chunks in msg from `at`. Returns the offset up to which the bytes are understood: the
 * end of the body (the phase is then PHASE_HEAD), of the message, or of this run's steps. 0: the
 * framing is broken.
 */
__weak __noinline u32 walk_chunks(struct sk_msg_md *msg, struct conn *conn, u32 at)
{
	u32 size = msg->size, i;

	if (!conn)
		return 0;
	bpf_for(i, 0, CHUNK_STEPS) {
		u8 *data;

		if (at >= size || conn->phase == PHASE_HEAD)
			break;
		if (conn->phase == PHASE_CHUNK_DATA) {
			u64 n = size - at;

			if (n > conn->left)
				n = conn->left;
			at += n;
			conn->left -= n;
			if (!conn->left) {
				conn->phase = PHASE_CHUNK_END;
				conn->digits = 0;
			}
			continue;
		}
		if (bpf_msg_pull_data(msg, at, at + 1, 0))
			return 0;
		data = msg->data;
		if ((void *)(data + 1) > msg->data_end || !frame_byte(conn, *data))
			return 0;
		at++;
	}
	return at;
}

#endif
