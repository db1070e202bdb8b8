/* The two loops in which a round spends its time, with the vector instructions of x86-64 processors.
 *
 *   add_stream   words +- an AES-256 key stream, in one pass (needs VAES and AVX-512)
 *   hash_pair    SHA-256 of two messages at once (needs the SHA extensions)
 *
 * Optional: masking.py and merkle.py do the same with OpenSSL where this module was not built, where the processor
 * lacks the instructions, or where it is switched off; see kernel.py. No table is looked up and no branch depends on a
 * secret. Only the stable ABI of Python 3.11 is used.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* kernel.py names the same number: raise both when a function changes, so that an older build is not used. */
#define VERSION 1

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define MASKS 1
#define HASHES 2

#define INLINE static inline __attribute__((always_inline))
#define WITH_MASKS __attribute__((target("aes,vaes,avx512f,avx512bw")))
#define WITH_HASHES __attribute__((target("sha,ssse3,sse4.1")))

static int features;

/* What this processor and this operating system allow: MASKS | HASHES. */
static int detect(void)
{
    unsigned a, b, c, d, b7, c7, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
        return 0;
    int found = 0;
    if ((c & bit_SSSE3) && (c & bit_SSE4_1) && (b7 & bit_SHA))
        found |= HASHES;
    if ((c & bit_OSXSAVE) && (c & bit_AES) && (b7 & bit_AVX512F) && (b7 & bit_AVX512BW) && (c7 & bit_VAES)) {
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & 0xe6) == 0xe6) /* the system saves all vector registers */
            found |= MASKS;
    }
    return found;
}

/* ---- AES-256 in counter mode, added to words ------------------------------------------------------------------- */

#define ROUNDS 14
#define VECTORS 8      /* 512-bit vectors under way at once: what an AES unit needs to be busy */
#define VECTOR_WORDS 8 /* uint64 in a vector */

/* A round key from the one two before it (FIPS 197, section 5.2); `core` is what is added to its first word. */
WITH_MASKS INLINE __m128i next_key(__m128i key, __m128i core)
{
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, core);
}

WITH_MASKS static void expand(const uint8_t *seed, __m128i keys[ROUNDS + 1])
{
    keys[0] = _mm_loadu_si128((const __m128i *)seed);
    keys[1] = _mm_loadu_si128((const __m128i *)(seed + 16));
/* The constants must be literals of the instruction. */
#define EVEN(i, rcon) \
    keys[i] = next_key(keys[i - 2], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[i - 1], rcon), 0xff))
#define ODD(i) keys[i] = next_key(keys[i - 2], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[i - 1], 0), 0xaa))
    EVEN(2, 0x01), ODD(3), EVEN(4, 0x02), ODD(5), EVEN(6, 0x04), ODD(7), EVEN(8, 0x08), ODD(9);
    EVEN(10, 0x10), ODD(11), EVEN(12, 0x20), ODD(13), EVEN(14, 0x40);
#undef EVEN
#undef ODD
}

/* words[0, count) += or -= the key stream of `seed` from the counter block (chunk, 96 bits; 2, 32 bits) on. */
WITH_MASKS static void add_stream(uint8_t *words, size_t count, const uint8_t *seed, uint64_t chunk, int negative)
{
    __m128i keys[ROUNDS + 1];
    __m512i key[ROUNDS + 1];
    expand(seed, keys);
    for (int r = 0; r <= ROUNDS; r++)
        key[r] = _mm512_broadcast_i32x4(keys[r]);

    uint8_t nonce[16] = {0};
    for (int i = 0; i < 8; i++)
        nonce[11 - i] = (uint8_t)(chunk >> 8 * i);
    /* The last 32 bits of a block count; they are counted little-endian and turned around as a block is made. */
    const __m512i turn = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    const __m512i four = _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0);
    __m512i counter = _mm512_or_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)nonce)),
                                      _mm512_set_epi32(5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0));
    const __m512i sign = _mm512_set1_epi64(negative ? -1 : 0); /* (x ^ sign) - sign is x or -x */

    for (size_t done = 0; done < count; done += VECTORS * VECTOR_WORDS) {
        __m512i x[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            x[v] = _mm512_xor_si512(_mm512_shuffle_epi8(counter, turn), key[0]);
            counter = _mm512_add_epi32(counter, four);
        }
        for (int r = 1; r < ROUNDS; r++)
            for (int v = 0; v < VECTORS; v++)
                x[v] = _mm512_aesenc_epi128(x[v], key[r]);
        for (int v = 0; v < VECTORS; v++) {
            size_t at = done + (size_t)v * VECTOR_WORDS;
            size_t left = at < count ? count - at : 0;
            __mmask8 there = left < VECTOR_WORDS ? (__mmask8)((1u << left) - 1) : 0xff;
            uint8_t *place = words + 8 * (left ? at : 0);
            __m512i stream = _mm512_aesenclast_epi128(x[v], key[ROUNDS]);
            stream = _mm512_sub_epi64(_mm512_xor_si512(stream, sign), sign);
            __m512i sum = _mm512_add_epi64(_mm512_maskz_loadu_epi64(there, place), stream);
            _mm512_mask_storeu_epi64(place, there, sum);
        }
    }
    memset(keys, 0, sizeof keys);
    memset(key, 0, sizeof key);
    __asm__ volatile("" : : "r"(keys), "r"(key) : "memory"); /* keeps the compiler from leaving the clearing out */
}

/* ---- SHA-256, two messages at once ----------------------------------------------------------------------------- */

#define BLOCK 64

static const uint32_t CONSTANTS[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* The state a..h of FIPS 180-4 as the instructions want it: high words a, b, e, f and c, d, g, h. */
typedef struct {
    __m128i abef, cdgh;
} state;

static const uint32_t START[8] = {0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667,  /* f e b a */
                                  0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}; /* h g d c */

/* Four rounds of one message, and the four words of its schedule that are used twelve rounds later. */
WITH_HASHES INLINE void four_rounds(state *s, __m128i w[4], int r)
{
    __m128i x = _mm_add_epi32(w[r & 3], _mm_load_si128((const __m128i *)(CONSTANTS + 4 * r)));
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, x);
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(x, 0x0e));
    if (r < 12) {
        __m128i next = _mm_sha256msg1_epu32(w[r & 3], w[(r + 1) & 3]);
        next = _mm_add_epi32(next, _mm_alignr_epi8(w[(r + 3) & 3], w[(r + 2) & 3], 4));
        w[r & 3] = _mm_sha256msg2_epu32(next, w[(r + 3) & 3]);
    }
}

/* One message waits on itself half of the time; two that take turns do not. */
WITH_HASHES static void compress(state s[2], const uint8_t *first, const uint8_t *second, size_t blocks)
{
    const __m128i turn = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    for (; blocks; blocks--, first += BLOCK, second += BLOCK) {
        state a = s[0], b = s[1];
        __m128i v[4], w[4];
        for (int i = 0; i < 4; i++) {
            v[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)first + i), turn);
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)second + i), turn);
        }
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            four_rounds(&a, v, r);
            four_rounds(&b, w, r);
        }
        s[0].abef = _mm_add_epi32(s[0].abef, a.abef), s[0].cdgh = _mm_add_epi32(s[0].cdgh, a.cdgh);
        s[1].abef = _mm_add_epi32(s[1].abef, b.abef), s[1].cdgh = _mm_add_epi32(s[1].cdgh, b.cdgh);
    }
}

WITH_HASHES static void digest(const state *s, uint8_t out[32])
{
    uint32_t half[8];
    static const int order[8] = {3, 2, 7, 6, 1, 0, 5, 4}; /* where a, b, ..., h stand */
    _mm_storeu_si128((__m128i *)half, s->abef);
    _mm_storeu_si128((__m128i *)(half + 4), s->cdgh);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = (uint8_t)(half[order[i]] >> (24 - 8 * j));
}

/* SHA-256 of (heads[k], bodies[k]), k = 0 and 1. head < BLOCK <= head + body, so the first block joins both. */
WITH_HASHES static void hash_pair(const uint8_t *heads[2], size_t head, const uint8_t *bodies[2], size_t body,
                                  uint8_t out[2][32])
{
    state s[2];
    uint8_t joined[2][BLOCK], last[2][2 * BLOCK] = {{0}, {0}};
    size_t fill = BLOCK - head, blocks = (body - fill) / BLOCK, rest = (body - fill) % BLOCK;
    size_t padded = rest + 9 > BLOCK ? 2 : 1;
    uint64_t bits = 8 * (uint64_t)(head + body);
    for (int k = 0; k < 2; k++) {
        s[k].abef = _mm_loadu_si128((const __m128i *)START);
        s[k].cdgh = _mm_loadu_si128((const __m128i *)(START + 4));
        memcpy(joined[k], heads[k], head);
        memcpy(joined[k] + head, bodies[k], fill);
        memcpy(last[k], bodies[k] + fill + blocks * BLOCK, rest);
        last[k][rest] = 0x80;
        for (int i = 0; i < 8; i++)
            last[k][padded * BLOCK - 1 - (size_t)i] = (uint8_t)(bits >> 8 * i);
    }
    compress(s, joined[0], joined[1], 1);
    compress(s, bodies[0] + fill, bodies[1] + fill, blocks);
    compress(s, last[0], last[1], padded);
    digest(&s[0], out[0]);
    digest(&s[1], out[1]);
}

/* ---- Python ---------------------------------------------------------------------------------------------------- */

static PyObject *missing(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this processor lacks the instructions");
    return NULL;
}

static PyObject *py_add_stream(PyObject *self, PyObject *args)
{
    Py_buffer words, seed;
    PyObject *number, *result = NULL;
    int sign;
    (void)self;
    if (!(features & MASKS))
        return missing();
    if (!PyArg_ParseTuple(args, "w*y*Oi", &words, &seed, &number, &sign))
        return NULL;
    unsigned long long chunk = PyLong_AsUnsignedLongLong(number);
    if (chunk == (unsigned long long)-1 && PyErr_Occurred())
        goto done;
    /* 2^26 words are 2^25 blocks: the 32 bits that count cannot overflow. */
    if (seed.len != 32 || words.len % 8 || words.len > (Py_ssize_t)8 << 26 || (sign != 1 && sign != -1)) {
        PyErr_SetString(PyExc_ValueError, "add_stream(words of 8 bytes, seed of 32 bytes, chunk, 1 or -1)");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    add_stream(words.buf, (size_t)words.len / 8, seed.buf, chunk, sign < 0);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&words);
    PyBuffer_Release(&seed);
    return result;
}

static PyObject *py_hash_pair(PyObject *self, PyObject *args)
{
    Py_buffer head[2], body[2];
    PyObject *result = NULL;
    uint8_t out[2][32];
    (void)self;
    if (!(features & HASHES))
        return missing();
    if (!PyArg_ParseTuple(args, "y*y*y*y*", &head[0], &body[0], &head[1], &body[1]))
        return NULL;
    if (head[0].len != head[1].len || body[0].len != body[1].len || head[0].len >= BLOCK ||
        head[0].len + body[0].len < BLOCK) {
        PyErr_SetString(PyExc_ValueError, "hash_pair: two heads of one length below 64, two bodies of one length, "
                                          "at least 64 bytes together");
    } else {
        const uint8_t *heads[2] = {head[0].buf, head[1].buf}, *bodies[2] = {body[0].buf, body[1].buf};
        Py_BEGIN_ALLOW_THREADS
        hash_pair(heads, (size_t)head[0].len, bodies, (size_t)body[0].len, out);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("(y#y#)", (char *)out[0], (Py_ssize_t)32, (char *)out[1], (Py_ssize_t)32);
    }
    for (int k = 0; k < 2; k++) {
        PyBuffer_Release(&head[k]);
        PyBuffer_Release(&body[k]);
    }
    return result;
}

static PyMethodDef methods[] = {
    {"add_stream", py_add_stream, METH_VARARGS,
     "add_stream(words, seed, chunk, sign): add or subtract a key stream, in place."},
    {"hash_pair", py_hash_pair, METH_VARARGS,
     "hash_pair(head, body, other_head, other_body) -> two SHA-256 digests of head and body."},
    {NULL, NULL, 0, NULL}};

static int start(PyObject *module)
{
    features = detect();
    return PyModule_AddIntConstant(module, "VERSION", VERSION) ||
           PyModule_AddIntConstant(module, "MASKS", !!(features & MASKS)) ||
           PyModule_AddIntConstant(module, "HASHES", !!(features & HASHES));
}

#else /* another processor or compiler: an empty module, and OpenSSL does the work */

static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

static int start(PyObject *module)
{
    return PyModule_AddIntConstant(module, "VERSION", VERSION) || PyModule_AddIntConstant(module, "MASKS", 0) ||
           PyModule_AddIntConstant(module, "HASHES", 0);
}

#endif

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)start}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&definition);
}
