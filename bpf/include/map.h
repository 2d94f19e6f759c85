/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* How a header names a map: maps.bpf.c defines them all, the others refer to them. */
#ifndef BEEWAY_MAP_H
#define BEEWAY_MAP_H

#ifdef DEFINE_MAPS
#define MAP struct
#else
#define MAP extern struct
#endif

#endif
