/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Takes an HTTP/1.1 request head apart (RFC 9112), strictly: what is not plainly well-formed is
 * left to userspace. A head that passes here has one meaning to every server: CRLF line ends, one
 * Host, at most one Content-Length of digits or one `Transfer-Encoding: chunked`, no folding, no
 * control bytes.
 */
#ifndef BEEWAY_HTTP_H
#define BEEWAY_HTTP_H

#include "balance.h"

#define HEAD_MASK (HEAD_BYTES - 1)
#define PORT_BYTES 7	/* `.:65535` behind a host */
#define ONES 0x0101010101010101ull
#define HIGHS 0x8080808080808080ull
#define LOWER8 0x2020202020202020ull
#define NAME_BYTES 256	/* of a field name, its colon included */
/* The hash of names; crates/dataplane/src/tables/heap.rs has its twin. */
#define NAME_BASIS 0xcbf29ce484222325ull
#define NAME_PRIME 0x9e3779b97f4a7c15ull

/* What the verdict and the framing of the body need of a head. Offsets are into the head. */
struct head {
	u64 body;		/* bytes, when not chunked */
	u32 length;		/* of the head, its empty line included */
	u16 path;
	u16 path_length;	/* up to `?` */
	u16 query;
	u16 query_length;	/* behind `?` */
	u16 host;
	u16 host_length;	/* without port */
	u8 method;
	u8 chunked;
	u8 has_host;
	u8 has_length;
	u8 has_connection;
	u8 needs_normalising;
	u8 pad[2];
};

/* Bytes of a field name (RFC 9110 section 5.6.2) beside letters and `-`. */
static const u8 rare_name_bytes[256] = {
	['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1,
	['.'] = 1, ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1,
	['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1,
	['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1,
};

static __always_inline u64 word_at(struct scratch *s, u32 at)
{
	/* unaligned, which every machine that BPF runs on allows */
	return *(u64 *)&s->head[at & HEAD_MASK];
}

static __always_inline u8 byte_at(struct scratch *s, u32 at)
{
	return s->head[at & HEAD_MASK];
}

/*
 * Eight bytes at a time: each of these marks the high bit of the bytes that it looks for. Of find()
 * and find_control() the first mark is exact, later ones may be carries.
 */
static __always_inline u64 find(u64 word, u8 c)
{
	u64 zero = word ^ c * ONES;

	return (zero - ONES) & ~zero & HIGHS;
}

/* Bytes below 0x20, and DEL. */
static __always_inline u64 find_control(u64 word)
{
	return ((word - 0x20 * ONES) & ~word & HIGHS) | find(word, 0x7f);
}

/* Bytes from `first` to `last`, both below 0x80; all marks are exact. `low` has no high bits. */
static __always_inline u64 find_range(u64 low, u8 first, u8 last)
{
	return (low + (0x80 - first) * ONES) & ~(low + (0x7f - last) * ONES) & HIGHS;
}

/* The byte with the first of these marks. BPF has no instruction that counts zeros. */
static __always_inline u32 first_mark(u64 marks)
{
	/* the lowest bit of each byte up to and with the marked one, added up in the highest byte */
	return (((marks - 1) & ~marks & ONES) * ONES >> 56) - 1;
}

/* The first n bytes of a word, 1 to 8; the others become zero. */
static __always_inline u64 first_bytes(u64 word, u32 n)
{
	return word & ~0ull >> ((64 - 8 * n) & 63);
}

/* Eight characters as the word that they are in memory. */
#define WORD8(a, b, c, d, e, f, g, h) \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | \
	 (u64)(f) << 40 | (u64)(g) << 48 | (u64)(h) << 56)

/* Reads the method; its length with the space after it, 0 when it is none that we know. */
static __always_inline u32 parse_method(struct scratch *s, struct head *h)
{
	u64 word = word_at(s, 0);

	if ((word & 0xffffffff) == WORD8('G', 'E', 'T', ' ', 0, 0, 0, 0))
		return h->method = METHOD_GET, 4;
	if ((word & 0xffffffffff) == WORD8('P', 'O', 'S', 'T', ' ', 0, 0, 0))
		return h->method = METHOD_POST, 5;
	if ((word & 0xffffffffff) == WORD8('H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return h->method = METHOD_HEAD, 5;
	if ((word & 0xffffffff) == WORD8('P', 'U', 'T', ' ', 0, 0, 0, 0))
		return h->method = METHOD_PUT, 4;
	if ((word & 0xffffffffffffff) == WORD8('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return h->method = METHOD_DELETE, 7;
	if ((word & 0xffffffffffff) == WORD8('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
		return h->method = METHOD_PATCH, 6;
	if (word == WORD8('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
		return h->method = METHOD_OPTIONS, 8;
	return 0;
}

/*
 * The functions below that are not inlined are verified one by one: a value that a call returns is
 * any value to the verifier, which is what lets the loops around the calls converge.
 */

/*
 * Reads `target SP HTTP/1.1 CRLF` from `at`; the offset behind it, 0 and s->reason on failure.
 * The head is followed by zero bytes, so a scan stops at its end.
 */
__weak __noinline u32 parse_target(struct scratch *s, u32 at, u32 length, struct head *h)
{
	u32 end = 0, query = 0, i;

	if (!s || !h)
		return 0;
	s->reason = byte_at(s, at) == '/' ? REASON_SYNTAX : REASON_UNUSUAL;
	if (byte_at(s, at) != '/')
		return 0;
	s->cursor = at;
	bpf_for(i, 0, HEAD_BYTES) {
		u32 from = s->cursor;
		u64 word = word_at(s, from);
		u64 marks = find_control(word) | (word & HIGHS) | find(word, ' ') | find(word, '#');
		u8 c;

		if (!query)
			marks |= find(word, '?') | find(word, '%') | find(word, '\\') |
				 find(word, '.');
		if (!marks) {
			s->cursor = from + 8;
			if (from + 8 >= HEAD_BYTES)
				break;
			continue;
		}
		from += first_mark(marks);
		s->cursor = from + 1;
		c = byte_at(s, from);
		if (c <= ' ' || c >= 0x7f) {
			end = from;
			break;
		}
		if (c == '?' && !query)
			query = from;
		else if (c != '.' || byte_at(s, from - 1) == '/')
			h->needs_normalising = 1;
	}
	if (end >= HEAD_BYTES)
		end = 0;
	if (end >= length || !end) {
		s->reason = end ? REASON_PARTIAL_HEAD : REASON_HEAD_LIMIT;
		return 0;
	}
	if (byte_at(s, end) != ' ')
		return 0;
	h->path = at;
	h->path_length = (query ? query : end) - at;
	h->query = query ? query + 1 : end;
	h->query_length = end - h->query;
	if (end + 11 > length) {
		s->reason = REASON_PARTIAL_HEAD;
		return 0;
	}
	if (word_at(s, end + 1) != WORD8('H', 'T', 'T', 'P', '/', '1', '.', '1')) {
		s->reason = REASON_UNUSUAL;
		return 0;
	}
	if (byte_at(s, end + 9) != '\r' || byte_at(s, end + 10) != '\n')
		return 0;
	return end + 11;
}

/* Puts up to eight bytes of a name in lower case and adds them to its hash; how many there are. */
static __always_inline u32 name_word(struct scratch *s, u32 from, u64 *sum)
{
	u64 word = word_at(s, from), low = word & ~HIGHS, others, lower;
	u64 letters = find_range(low | LOWER8, 'a', 'z') & ~word;
	u64 dashes = ~((low ^ '-' * ONES) + 0x7f * ONES);
	u32 n;

	others = (~(letters | dashes) | word) & HIGHS;
	for (int k = 0; k < 8; k++) {
		if (!others || !rare_name_bytes[byte_at(s, from + first_mark(others))])
			break;
		others &= others - 1;
	}
	n = others ? first_mark(others) : 8;
	if (!n)
		return 0;
	/* the high bit of a letter becomes the bit of lower case */
	lower = word | first_bytes(letters >> 2, n);
	if (lower != word)
		*(u64 *)&s->head[from & HEAD_MASK] = lower;
	*sum = (*sum ^ first_bytes(lower, n)) * NAME_PRIME;
	return n;
}

/* Reads a field name, putting it in lower case where it stands; the offset of the colon or 0. */
__weak __noinline u32 parse_name(struct scratch *s, u32 at)
{
	u64 sum = NAME_BASIS;
	u32 n, end, i;

	if (!s)
		return 0;
	/* most names are short, and a loop costs more than two words */
	n = name_word(s, at, &sum);
	if (n == 8)
		n += name_word(s, at + 8, &sum);
	end = n && n < 16 ? at + n : 0;
	if (n == 16) {
		s->cursor = at + 16;
		bpf_for(i, 2, NAME_BYTES / 8) {
			u32 from = s->cursor;

			n = name_word(s, from, &sum);
			if (n < 8) {
				end = from + n;
				break;
			}
			s->cursor = from + 8;
		}
	}
	s->name_hash = sum >> 32;
	return end;
}

/* How many of 32 bytes come before the first control byte. */
static __always_inline u32 plain_bytes(struct scratch *s, u32 from)
{
	/* the head has slack for words that begin inside of it */
	const u64 *words = (const u64 *)&s->head[from & HEAD_MASK];
	u64 first = find_control(words[0]), second = find_control(words[1]);
	u64 third = find_control(words[2]), fourth = find_control(words[3]);

	if (first)
		return first_mark(first);
	if (second)
		return 8 + first_mark(second);
	if (third)
		return 16 + first_mark(third);
	return fourth ? 24 + first_mark(fourth) : 32;
}

/* The offset of the CR that ends a field value, or of the byte that must not be there. */
__weak __noinline u32 find_line_end(struct scratch *s, u32 at)
{
	u32 n, i;

	if (!s)
		return 0;
	/* most values are short, and a loop costs more than a look */
	n = plain_bytes(s, at);
	if (n < 32 && byte_at(s, at + n) != '\t')
		return at + n;
	/* the verifier forgets what it knew of a number in memory; of a register it would try all */
	s->cursor = at;
	bpf_for(i, 0, HEAD_BYTES / 32 + HEAD_LINES) {
		u32 from = s->cursor;

		n = plain_bytes(s, from);
		s->cursor = from + n;
		if (n < 32) {
			if (byte_at(s, from + n) != '\t')
				break;
			s->cursor = from + n + 1;
		} else if (from + 32 >= HEAD_BYTES) {
			break;
		}
	}
	return s->cursor;
}

__weak __noinline int parse_length(struct scratch *s, const struct line *l, struct head *h)
{
	bool fine = true;
	u64 value = 0;
	u32 i;

	if (!s || !l || !h)
		return false;
	if (!l->value_length || l->value_length > 18)
		return false;
	bpf_for(i, 0, 18) {
		u8 digit;

		if (i >= l->value_length)
			break;
		digit = byte_at(s, l->value + i) - '0';
		if (digit > 9)
			fine = false;
		value = value * 10 + digit;
	}
	h->body = value;
	return fine && !h->has_length++;
}

/* Marks bytes that names of hosts have, and ports. What else may stand there (RFC 3986 section
 * 3.2.2) is for userspace to say. `word` has no high bits. */
static __always_inline u64 find_host_bytes(u64 word, bool literal)
{
	u64 marks = find_range(word | LOWER8, 'a', 'z') | find_range(word, '-', '.') |
		    find_range(word, '0', ':') | find_range(word, '_', '_');

	return literal ? marks | find_range(word, '[', '[') | find_range(word, ']', ']') : marks;
}

/*
 * Finds the name in a Host value: without port and trailing dot. 0, or the reason to leave it alone:
 * a name that is too long, that has bytes of no host name, or that would need more than this to be
 * what rules compare with.
 */
__weak __noinline u32 parse_host(struct scratch *s, const struct line *l, struct head *h)
{
	u32 length, colons = 0, i;
	bool literal;

	if (!s || !l || !h)
		return REASON_SYNTAX;
	length = l->value_length;
	if (length > HOST_BYTES + PORT_BYTES)
		return REASON_UNUSUAL;
	literal = byte_at(s, l->value) == '[';
	bpf_for(i, 0, (HOST_BYTES + PORT_BYTES) / 8 + 1) {
		u64 word = word_at(s, l->value + i * 8);

		if (i * 8 >= length)
			break;
		if (length - i * 8 < 8)
			word = first_bytes(word, length - i * 8) |
			       'a' * ONES << (length - i * 8) * 8;
		if (word & HIGHS || find_host_bytes(word, literal) != HIGHS)
			return REASON_UNUSUAL;
		colons += (find_range(word, ':', ':') >> 7) * ONES >> 56;
	}
	/* most names have no port and end in a letter */
	if (byte_at(s, l->value + length - 1) <= '9') {
		bpf_for(i, 0, HOST_BYTES + PORT_BYTES) {
			u8 last = byte_at(s, l->value + length - 1);

			if (!length || last < '0' || last > '9')
				break;
			length--;
		}
	}
	if (!length || byte_at(s, l->value + length - 1) != ':')
		length = l->value_length + 1;
	length--;
	colons -= length != l->value_length;
	if (literal ? byte_at(s, l->value + length - 1) != ']' : colons)
		return REASON_UNUSUAL;
	if (length && byte_at(s, l->value + length - 1) == '.')
		length--;
	h->host = l->value;
	h->host_length = length;
	return length && byte_at(s, l->value + length - 1) == '.' ? REASON_UNUSUAL : 0;
}

/* How long the names are that special_field() knows, a bit each: the call is saved for others. */
#define SPECIAL_LENGTHS (1u << 4 | 1u << 7 | 1u << 10 | 1u << 14 | 1u << 17)

/* Field names and values that change what the request is; 0 or the reason to leave it alone. */
__weak __noinline u32 special_field(struct scratch *s, const struct line *l, struct head *h)
{
	u64 first, value;

	if (!s || !l || !h)
		return REASON_SYNTAX;
	first = word_at(s, l->name);
	switch (l->name_length) {
	case 4:
		if ((u32)first != (u32)WORD8('h', 'o', 's', 't', 0, 0, 0, 0))
			return 0;
		if (h->has_host++)
			return REASON_SYNTAX;
		return parse_host(s, l, h);
	case 7:
		return (first << 8) == WORD8(0, 'u', 'p', 'g', 'r', 'a', 'd', 'e')
			? REASON_UNUSUAL : 0;
	case 10:
		if (first != WORD8('c', 'o', 'n', 'n', 'e', 'c', 't', 'i') ||
		    (u16)word_at(s, l->name + 8) != (u16)('o' | 'n' << 8))
			return 0;
		value = word_at(s, l->value) | LOWER8;
		if (h->has_connection++)
			return REASON_UNUSUAL;
		if (l->value_length == 5 &&
		    (value & 0xffffffffff) == WORD8('c', 'l', 'o', 's', 'e', 0, 0, 0))
			return 0;
		if (l->value_length == 10 && value == WORD8('k', 'e', 'e', 'p', '-', 'a', 'l', 'i') &&
		    ((u16)word_at(s, l->value + 8) | 0x2020) == (u16)('v' | 'e' << 8))
			return 0;
		return REASON_UNUSUAL;
	case 14:
		if (first != WORD8('c', 'o', 'n', 't', 'e', 'n', 't', '-') ||
		    word_at(s, l->name + 6) != WORD8('t', '-', 'l', 'e', 'n', 'g', 't', 'h'))
			return 0;
		return parse_length(s, l, h) ? 0 : REASON_SYNTAX;
	case 17:
		if (first != WORD8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') ||
		    word_at(s, l->name + 9) != WORD8('e', 'n', 'c', 'o', 'd', 'i', 'n', 'g') ||
		    byte_at(s, l->name + 8) != '-')
			return 0;
		value = (word_at(s, l->value) | LOWER8) << 8;
		if (l->value_length != 7 || value != WORD8(0, 'c', 'h', 'u', 'n', 'k', 'e', 'd') ||
		    h->chunked++)
			return REASON_UNUSUAL;
		return 0;
	}
	return 0;
}

static __always_inline bool is_blank(u8 c)
{
	return c == ' ' || c == '\t';
}

/* Where the value behind a colon begins: after optional white space, of which 64 bytes are read. */
__weak __noinline u32 skip_space(struct scratch *s, u32 at)
{
	u32 i;

	if (!s)
		return 0;
	bpf_for(i, 0, 64) {
		if (!is_blank(byte_at(s, at)))
			break;
		at++;
	}
	return at;
}

/* Where a value ends that reaches up to `end` and may have white space there. */
__weak __noinline u32 trim_space(struct scratch *s, u32 start, u32 end)
{
	u32 i;

	if (!s)
		return 0;
	bpf_for(i, 0, 64) {
		if (end <= start || !is_blank(byte_at(s, end - 1)))
			break;
		end--;
	}
	return end;
}

/* Reads one field line at `at` into `l`; the offset behind it, 0 and s->reason on failure. */
__weak __noinline u32 parse_field(struct scratch *s, u32 at, u32 length, struct line *l)
{
	u32 colon, value, end, last;

	if (!s || !l)
		return 0;
	s->reason = REASON_SYNTAX;
	colon = parse_name(s, at);
	if (!colon || byte_at(s, colon) != ':') {
		if (colon >= length)
			s->reason = REASON_PARTIAL_HEAD;
		return 0;
	}
	/* as nearly everybody writes it, or in any way */
	value = colon + 2;
	if (byte_at(s, colon + 1) != ' ' || is_blank(byte_at(s, value)))
		value = skip_space(s, colon + 1);
	end = find_line_end(s, value);
	if (end + 2 > length) {
		s->reason = length >= HEAD_BYTES ? REASON_HEAD_LIMIT : REASON_PARTIAL_HEAD;
		return 0;
	}
	if (byte_at(s, end) != '\r' || byte_at(s, end + 1) != '\n')
		return 0;
	last = end;
	if (end > value && is_blank(byte_at(s, end - 1)))
		last = trim_space(s, value, end);
	/* more white space than was looked at is not part of the value either */
	if (is_blank(byte_at(s, value)) || (last > value && is_blank(byte_at(s, last - 1)))) {
		s->reason = REASON_UNUSUAL;
		return 0;
	}
	l->hash = s->name_hash;
	l->name = at;
	l->name_length = colon - at;
	l->value = value;
	l->value_length = last - value;
	return end + 2;
}

/*
 * Reads the head in s->head[0..length]; the bytes behind it are zero. Returns 0 and fills `h` and
 * s->lines, or returns the reason why the kernel cannot judge this request.
 */
__weak __noinline int parse_head(struct scratch *s, u32 length, struct head *h)
{
	u32 at, i, reason = REASON_HEAD_LIMIT;

	if (!s || !h)
		return REASON_SYNTAX;
	__builtin_memset(h, 0, sizeof(*h));
	s->lines_used = 0;
	at = parse_method(s, h);
	if (!at)
		return length < 8 ? REASON_PARTIAL_HEAD : REASON_UNUSUAL;
	at = parse_target(s, at, length, h);
	if (!at)
		return s->reason;
	bpf_for(i, 0, HEAD_LINES + 1) {
		struct line *l = &s->lines[i & (HEAD_LINES - 1)];

		reason = length >= HEAD_BYTES ? REASON_HEAD_LIMIT : REASON_PARTIAL_HEAD;
		if (at + 2 > length)
			break;
		if (byte_at(s, at) == '\r' && byte_at(s, at + 1) == '\n') {
			h->length = at + 2;
			reason = 0;
			break;
		}
		reason = REASON_HEAD_LIMIT;
		if (i >= HEAD_LINES)
			break;
		at = parse_field(s, at, length, l);
		reason = s->reason;
		if (at)
			reason = l->name_length < 32 && SPECIAL_LENGTHS >> l->name_length & 1
				? special_field(s, l, h) : 0;
		if (reason)
			break;
		s->lines_used = i + 1;
	}
	if (reason)
		return reason;
	if (!h->has_host || (h->chunked && h->has_length))
		return REASON_SYNTAX;
	return 0;
}

#endif
