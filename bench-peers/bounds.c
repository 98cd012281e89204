// What this machine can do at most: read memory, multiply and add int8. Prints one JSON object.
//
//   cc -O3 -march=native -pthread bounds.c -o bounds && ./bounds THREADS
//
// Reading: every thread sums a part of a buffer far larger than any cache, in huge pages, with prefetch, as one stream and as
// two. Arithmetic: dot products of four int8 pairs into int32, on registers alone, as many independent chains as hide the
// latency. Best of several rounds each, because a bound is what was reached at least once.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define BUFFER ((size_t)2 << 30)
#define AHEAD 1024
#define ROUNDS 7
#define CHAINS 12

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

struct part {
  const uint64_t *data;
  size_t words;
  int streams;
  volatile uint64_t sum;
};

static void *read_part(void *argument) {
  struct part *part = argument;
  const uint64_t *data = part->data;
  uint64_t sums[8] = {0};
  size_t words = part->words / part->streams;
  for (size_t i = 0; i < words; i += 32)
    for (int stream = 0; stream < part->streams; stream++)
      for (size_t line = i; line < i + 32; line += 8) {
        const uint64_t *at = data + stream * words + line;
        __builtin_prefetch((const char *)at + AHEAD, 0, 3);
        for (int j = 0; j < 8; j++) sums[j] ^= at[j];
      }
  for (int j = 1; j < 8; j++) sums[0] ^= sums[j];
  part->sum = sums[0];
  return 0;
}

#if defined(__AMX_INT8__) && defined(__linux__)
#define NAME "tdpbssd"
#define LANES (16 * 16 * 64)
#define REPEATS 4000000L
#undef CHAINS
#define CHAINS 4
typedef struct { char bytes[64]; } vector;
#elif defined(__AVX512VNNI__)
#define NAME "vpdpbusd, 512 bits"
#define LANES 64
typedef __m512i vector;
static inline vector start(int x) { return _mm512_set1_epi8(x); }
static inline vector dot(vector sum, vector a, vector b) { return _mm512_dpbusd_epi32(sum, a, b); }
#elif defined(__AVXVNNI__)
#define NAME "vpdpbusd, 256 bits"
#define LANES 32
typedef __m256i vector;
static inline vector start(int x) { return _mm256_set1_epi8(x); }
static inline vector dot(vector sum, vector a, vector b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#elif defined(__AVX2__)
#define NAME "vpmaddubsw, vpmaddwd, vpaddd"
#define LANES 32
typedef __m256i vector;
static inline vector start(int x) { return _mm256_set1_epi8(x); }
static inline vector dot(vector sum, vector a, vector b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
#elif defined(__ARM_FEATURE_DOTPROD)
#define NAME "sdot"
#define LANES 16
typedef int8x16_t vector;
static inline vector start(int x) { return vdupq_n_s8(x); }
static inline vector dot(vector sum, vector a, vector b) {
  return vreinterpretq_s8_s32(vdotq_s32(vreinterpretq_s32_s8(sum), a, b));
}
#endif

#ifndef REPEATS
#define REPEATS 20000000L
#endif

#if defined(__AMX_INT8__) && defined(__linux__)
// Tiles 0 to 3 are sums, the others factors, all of sixteen rows of 64 bytes. Assembly, because GCC 12 takes
// `_tile_loadconfig` for reading eight bytes.
static void *multiply(void *argument) {
  (void)argument;
  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  if (syscall(SYS_arch_prctl, 0x1023, 18)) exit(1);
  struct { unsigned char palette, start, reserved[14]; unsigned short row_bytes[16]; unsigned char rows[16]; } shapes;
  memset(&shapes, 0, sizeof shapes);
  shapes.palette = 1;
  for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
  static const char factors[1024] __attribute__((aligned(64))) = {3, 5, 7, 1, 9, 2, 6, 4};
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%0,%1,1), %%tmm5\n\t"
                   "tileloadd (%0,%1,1), %%tmm6\n\ttileloadd (%0,%1,1), %%tmm7" ::"r"(factors), "r"(64L), "m"(factors));
  for (long n = 0; n < REPEATS; n++)
    __asm__ volatile("tdpbssd %tmm6, %tmm4, %tmm0\n\ttdpbssd %tmm7, %tmm4, %tmm1\n\t"
                     "tdpbssd %tmm6, %tmm5, %tmm2\n\ttdpbssd %tmm7, %tmm5, %tmm3");
  __asm__ volatile("tilerelease");
  return 0;
}
#elif defined(LANES)
static void *multiply(void *argument) {
  vector sums[CHAINS], a = start(3), b = start(5);
  for (int i = 0; i < CHAINS; i++) sums[i] = start(i);
  for (long n = 0; n < REPEATS; n++) {
    // The factors must look new each time, or the compiler does the loop's work once.
#if defined(__x86_64__)
    __asm__ volatile("" : "+v"(a), "+v"(b));
#else
    __asm__ volatile("" : "+w"(a), "+w"(b));
#endif
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) sums[i] = dot(sums[i], a, b);
  }
  for (int i = 0; i < CHAINS; i++) memcpy((char *)argument + i * sizeof(vector), &sums[i], sizeof(vector));
  return 0;
}
#endif

// Seconds that `threads` calls of `work` take side by side.
static double timed(int threads, void *(*work)(void *), char *arguments, size_t size) {
  pthread_t ids[threads];
  double begin = now();
  for (int i = 0; i < threads; i++)
    if (pthread_create(&ids[i], 0, work, arguments + i * size)) exit(1);
  for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
  return now() - begin;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 1024) return 2;
  char *buffer = aligned_alloc(2 << 20, BUFFER + (2 << 20));
  if (!buffer) return 1;
#if defined(__linux__)
  madvise(buffer, BUFFER, MADV_HUGEPAGE);
#endif
  memset(buffer, 1, BUFFER + 4096);

  struct part parts[threads];
  size_t words = BUFFER / 8 / threads / 64 * 64;
  double read = 0;
  for (int round = 0; round < 2 * ROUNDS; round++) {
    for (int i = 0; i < threads; i++)
      parts[i] = (struct part){(const uint64_t *)buffer + i * words, words, 1 + round % 2, 0};
    double rate = (double)words * 8 * threads / timed(threads, read_part, (char *)parts, sizeof *parts) / 1e9;
    if (rate > read) read = rate;
  }
  printf("{\"threads\": %d, \"read_gb_per_s\": %.2f, ", threads, read);

#ifdef LANES
  size_t size = CHAINS * sizeof(vector);
  char *sums = malloc(threads * size);
  if (!sums) return 1;
  double best = 0;
  for (int round = 0; round < ROUNDS; round++) {
    double rate = (double)REPEATS * CHAINS * LANES * threads / timed(threads, multiply, sums, size) / 1e9;
    if (rate > best) best = rate;
  }
  printf("\"int8_gmac_per_s\": %.1f, \"int8_instruction\": \"%s\"}\n", best, NAME);
#else
  printf("\"int8_gmac_per_s\": null, \"int8_instruction\": null}\n");
#endif
  return 0;
}
