/*
 * floats: arithmetic with results that IEEE 754 fixes to the last bit.
 * Exercises: SSE2 scalar and packed (add, mul, div, sqrt, conversions, rounding modes, denormals), x87 (80-bit add, mul,
 * div, sqrt, control word), and printf's decimal conversion. Instructions whose results differ between processors
 * (RCPPS, RSQRTPS, FSIN, ...) are left out on purpose: the digest is compared with the right one, on every engine.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <emmintrin.h>
#include <fenv.h>
#include <signal.h>
#include <unistd.h>

static uint64_t sum = DIGEST_START;

static void add(const char *text)
{
	sum = digest(sum, text, strlen(text));
}

static void add_double(double value)
{
	char text[64];

	snprintf(text, sizeof text, "%.17g;", value);
	add(text);
}

static void add_extended(long double value)
{
	char text[64];

	snprintf(text, sizeof text, "%.21Lg;", value);
	add(text);
}

static double root(double value)
{
	return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(value)));
}

static long double root_extended(long double value)
{
	__asm__("fsqrt" : "+t"(value));
	return value;
}

/* sin by its power series: only + * /, so every step is exact by the standard. */
static double sine(double x)
{
	double term = x, total = x;

	for (int n = 1; n < 20; n++) {
		term *= -x * x / (double)(2 * n * (2 * n + 1));
		total += term;
	}
	return total;
}

static long double sine_extended(long double x)
{
	long double term = x, total = x;

	for (int n = 1; n < 20; n++) {
		term *= -x * x / (long double)(2 * n * (2 * n + 1));
		total += term;
	}
	return total;
}

static void scalar(void)
{
	volatile double harmonic = 0;
	volatile long double harmonic_extended = 0;

	for (int i = 1; i <= 20000; i++) {
		harmonic += 1.0 / i;
		harmonic_extended += 1.0L / i;
	}
	add_double(harmonic);
	add_extended(harmonic_extended);
	for (int i = 1; i <= 100; i++) {
		volatile double x = i * 0.37;
		volatile long double y = i * 0.37L;

		add_double(root(x));
		add_extended(root_extended(y));
		add_double(sine(x / 6));
		add_extended(sine_extended(y / 6));
	}
}

static void rounding(void)
{
	static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

	for (int i = 0; i < 4; i++) {
		volatile double one = 1, three = 3, tiny = 1e-310, big = 123456789.5;
		volatile long double one_extended = 1, seven = 7;

		fesetround(modes[i]);
		/* volatile: the compiler must not move the arithmetic out of the rounding mode. */
		volatile double third = one / three, smaller = tiny / three;
		volatile long double seventh = one_extended / seven;
		volatile long long integer = _mm_cvtsd_si64(_mm_set_sd(big));
		volatile float narrow = (float)(one / three);

		fesetround(FE_TONEAREST);
		add_double(third);
		add_double(smaller);
		add_extended(seventh);
		add_double((double)integer);
		add_double(narrow);
	}
}

static void packed(void)
{
	__m128d a = _mm_set_pd(1.5, -2.25), b = _mm_set_pd(0.3, 7.0);
	__m128 c = _mm_set_ps(1, 2, 3, 4), d = _mm_set1_ps(1.0f / 3);
	__m128i n = _mm_set_epi32(1, 2, 3, 4);

	for (int i = 0; i < 2000; i++) {
		a = _mm_add_pd(_mm_mul_pd(a, _mm_set1_pd(0.999)), b);
		b = _mm_sqrt_pd(_mm_add_pd(_mm_mul_pd(b, b), _mm_set1_pd(0.125)));
		c = _mm_div_ps(_mm_add_ps(c, d), _mm_set1_ps(1.01f));
		n = _mm_add_epi32(_mm_xor_si128(_mm_slli_epi32(n, 3), n), _mm_cvtps_epi32(c));
	}
	double doubles[2];
	float floats[4];
	int32_t integers[4];

	_mm_storeu_pd(doubles, _mm_add_pd(a, b));
	_mm_storeu_ps(floats, c);
	_mm_storeu_si128((__m128i *)(void *)integers, n);
	for (int i = 0; i < 2; i++)
		add_double(doubles[i]);
	for (int i = 0; i < 4; i++) {
		add_double(floats[i]);
		add_double(integers[i]);
	}
}

/* Registers must survive a switch to another process and a signal handler that uses them too. */
static void on_signal(int signal)
{
	volatile long double x = signal;
	volatile double y = signal;

	for (int i = 0; i < 50; i++) {
		x = root_extended(x + 1.0L);
		y = root(y + 1.0);
	}
}

static void switches(void)
{
	double a = 1;
	long double b = 1;

	signal(SIGUSR1, on_signal);
	for (int i = 0; i < 50; i++) {
		a = root(a * 3 + i);
		b = root_extended(b * 3 + i);
		raise(SIGUSR1);
		usleep(100);
	}
	add_double(a);
	add_extended(b);
}

int main(void)
{
	static const uint64_t right = 0x42aab53472d6ea54;

	scalar();
	rounding();
	packed();
	switches();
	printf("floats: sqrt(2) = %.17g = %.21Lg, digest %016llx\n", root(2), root_extended(2), (unsigned long long)sum);
	if (sum != right)
		die("the digest is not the right one, %016llx", (unsigned long long)right);
	return 0;
}
