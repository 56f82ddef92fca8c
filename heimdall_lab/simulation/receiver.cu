// The kernels of interpolation.py, philox.py and receiver.py for GPUs: the same operations in the same order, compiled
// without fused multiply-add, so that both give the same samples. One thread makes the two samples of a Philox block.

#define TAPS 16
#define PHASES 1024
#define LEAD 7
#define ADC_MAX 32767.0f

typedef unsigned int word;
typedef unsigned long long wide;

static __device__ void kernel(const float *table, double fraction, float *taps) {
    double place = fraction * PHASES;
    int row = (int)place < PHASES - 1 ? (int)place : PHASES - 1;
    float share = (float)(place - row);
    const float *lower = table + row * TAPS;
    for (int tap = 0; tap < TAPS; ++tap) taps[tap] = lower[tap] + share * (lower[TAPS + tap] - lower[tap]);
}

static __device__ float filter(const float *signal, const float *taps) {
    float sum = 0.0f;
    for (int first = 0; first < TAPS; first += 4) {
        const float *s = signal + first, *t = taps + first;
        float part = t[0] * s[0] + t[1] * s[1] + t[2] * s[2] + t[3] * s[3];
        sum = first == 0 ? part : sum + part;
    }
    return sum;
}

static __device__ void philox4x32(word c0, word c1, word c2, word c3, word key0, word key1, word *words) {
    for (int round = 0; round < 10; ++round) {
        wide product0 = (wide)0xD2511F53u * c0, product1 = (wide)0xCD9E8D57u * c2;
        c0 = (word)(product1 >> 32) ^ c1 ^ key0;
        c1 = (word)product1;
        c2 = (word)(product0 >> 32) ^ c3 ^ key1;
        c3 = (word)product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

static __device__ void cos_sin_turn(float turn, float *cosine, float *sine) {
    float q = turn * turn;
    float s = turn * (3.14159265f + q * (-5.16771063f + q * (2.55008646f + q * (-0.59834268f + q * 0.07775363f))));
    float tail = 4.05870954f + q * (-1.33521579f + q * (0.23495336f + q * -0.02442065f));
    float c = 1.0f + q * (-4.93480215f + q * tail);
    *cosine = 1.0f - 2.0f * s * s;
    *sine = 2.0f * s * c;
}

static __device__ void complex_normal(word radius_word, word angle_word, float *real, float *imaginary) {
    union { float value; int bits; } number;
    number.value = (float)radius_word + 0.5f;
    int bits = number.bits - 0x3F3504F3;
    int exponent = bits >> 23;
    number.bits = (bits & 0x7FFFFF) + 0x3F3504F3;
    float f = number.value - 1.0f;
    float tail = 0.19956972f + f * (-0.16560675f + f * (0.14949135f + f * (-0.14377505f + f * 0.08744053f)));
    float log_mantissa = f * (0.99999997f + f * (-0.49999987f + f * (0.33334184f + f * (-0.25002154f + f * tail))));
    float radius = sqrtf((float)(32 - exponent) * 0.6931472f - log_mantissa);
    float cosine, sine;
    cos_sin_turn((float)(int)angle_word * 2.3283064e-10f, &cosine, &sine);
    *real = radius * cosine;
    *imaginary = radius * sine;
}

static __device__ short convert(float voltage) {
    return (short)rintf(fminf(fmaxf(voltage, -ADC_MAX), ADC_MAX));
}

// waveform (S, M, 2) -> planar (S, 2, count · factor); one thread a scene, component and sample.
extern "C" __global__ void upsample(const float *waveform, long long num_scenes, long long num_waveform, int factor,
                                    const float *table, float *planar) {
    long long count = num_waveform - TAPS, length = count * factor;
    long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= num_scenes * 2 * length) return;
    long long row = index / (2 * length), sample = index % length;
    int component = (int)(index / length % 2);
    float taps[TAPS];
    kernel(table, (double)(sample % factor) / factor, taps);
    const float *part = waveform + 2 * (row * num_waveform + sample / factor) + component;
    float sum = 0.0f;
    for (int tap = 0; tap < TAPS; ++tap) sum += taps[tap] * part[2 * tap];
    planar[index] = sum;
}

// planar (S, 2, M) and links -> iq (S, R, 2, N); one thread a scene, receiver and pair of samples.
extern "C" __global__ void receive(const float *planar, long long num_planar, const double *arrival,
                                   const double *arrival_rate, const float *gain, long long num_paths,
                                   long long num_gains, int block, const double *phase, const double *frequency,
                                   const double *drift, const double *noise_amplitude, const double *full_scale,
                                   const wide *sample, const wide *attempt, word stage, word lane_step, word key0,
                                   word key1, long long guard, const float *table, long long num_scenes,
                                   long long num_receivers, long long num_time, short *iq) {
    long long pairs = (num_time + 1) / 2;
    long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= num_scenes * num_receivers * pairs) return;
    long long link = index / pairs, pair = index % pairs;
    long long scene = link / num_receivers, receiver = link % num_receivers;
    short *in_phase = iq + link * 2 * num_time, *quadrature = in_phase + num_time;
    if (!(full_scale[link] > 0.0)) {
        for (long long n = 2 * pair; n < 2 * pair + 2 && n < num_time; ++n) in_phase[n] = quadrature[n] = 0;
        return;
    }
    float scale = (float)(32767.0 / full_scale[link]);
    float noise_scale = (float)(32767.0 / full_scale[link] * noise_amplitude[link]);
    long long number = 2 * pair / block, first = number * block;
    double middle = first + 0.5 * block - 0.5 * num_time;
    double position = first + guard - arrival_rate[link] * middle;
    float real[2] = {0.0f, 0.0f}, imaginary[2] = {0.0f, 0.0f};
    for (long long path = 0; path < num_paths; ++path) {
        const float *ends = gain + 2 * ((link * num_paths + path) * num_gains + number);
        if (ends[0] == 0.0f && ends[1] == 0.0f && ends[2] == 0.0f && ends[3] == 0.0f) continue;
        double at = position - arrival[link * num_paths + path];
        double whole = floor(at);
        float taps[TAPS];
        kernel(table, at - whole, taps);
        const float *signal = planar + scene * 2 * num_planar + (long long)whole - LEAD;
        float gain_real = scale * ends[0], gain_imaginary = scale * ends[1];
        float slope_real = (scale * ends[2] - gain_real) / (float)block;
        float slope_imaginary = (scale * ends[3] - gain_imaginary) / (float)block;
        for (int half = 0; half < 2; ++half) {
            int n = (int)(2 * pair - first) + half;
            float x = filter(signal + n, taps), y = filter(signal + num_planar + n, taps);
            float a = gain_real + (float)n * slope_real, c = gain_imaginary + (float)n * slope_imaginary;
            real[half] += a * x - c * y;
            imaginary[half] += a * y + c * x;
        }
    }
    double start = first - 0.5 * num_time;
    double turns = phase[link] + (frequency[link] + 0.5 * drift[link] * start) * start;
    float turn = (float)(turns - rint(turns));
    float step = (float)(frequency[link] + drift[link] * middle);
    word words[4];
    philox4x32((word)pair, (word)attempt[scene], (word)sample[scene], stage + lane_step * (word)receiver, key0, key1,
               words);
    for (int half = 0; half < 2 && 2 * pair + half < num_time; ++half) {
        float angle = turn + step * (float)((int)(2 * pair - first) + half);
        float cosine, sine, x, y;
        cos_sin_turn(angle - rintf(angle), &cosine, &sine);
        complex_normal(words[2 * half], words[2 * half + 1], &x, &y);
        float turned_real = real[half] * cosine - imaginary[half] * sine;
        float turned_imaginary = real[half] * sine + imaginary[half] * cosine;
        in_phase[2 * pair + half] = convert(turned_real + noise_scale * x);
        quadrature[2 * pair + half] = convert(turned_imaginary + noise_scale * y);
    }
}
