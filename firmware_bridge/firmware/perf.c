/* MLPerf Tiny's serial protocol; see perf.h. */
#include "perf.h"

#include <stdbool.h>
#include <string.h>

#include "device.h"

enum { MAX_COUNT = 1000000000 };

static void say(const device *device, const char *text) {
    device->hal->uart_write(device->hal->context, (const uint8_t *)text, strlen(text));
}

static void say_bytes(const device *device, const char *text, size_t bytes) {
    device->hal->uart_write(device->hal->context, (const uint8_t *)text, bytes);
}

static void say_number(const device *device, uint64_t value, size_t least_digits) {
    char digits[20];
    size_t count = 0;
    do {
        digits[sizeof digits - ++count] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0 || count < least_digits);
    say_bytes(device, digits + sizeof digits - count, count);
}

static void say_line(const device *device, const char *before, uint64_t value, const char *after) {
    say(device, before);
    say_number(device, value, 1);
    say(device, after);
    say(device, "\r\n");
}

static void say_timestamp(const device *device) {
    say_line(device, "m-lap-us-", device->hal->micros(device->hal->context), "");
}

/* The logit that is judged, in real units with three decimals. */
static void say_results(const device *device) {
    const rs_info *model = device_model(device);
    float logit = model->output_scale * (float)(device->picture.outputs[model->judged] - model->output_zero_point);
    float size = (logit < 0 ? -logit : logit) * 1000.0f + 0.5f;
    uint32_t thousandths = size < 1e9f ? (uint32_t)size : 1000000000u; /* a scale that is not a number ends here too */
    say(device, logit < 0 ? "m-results-[-" : "m-results-[");
    say_number(device, thousandths / 1000, 1);
    say(device, ".");
    say_number(device, thousandths % 1000, 3);
    say(device, "]\r\n");
}

/* The next word of the command, ended by a zero byte; NULL at the end. */
static char *next_word(char **rest) {
    char *start = *rest;
    while (*start == ' ') {
        start++;
    }
    if (*start == 0) {
        return NULL;
    }
    char *end = start;
    while (*end != 0 && *end != ' ') {
        end++;
    }
    *rest = *end == 0 ? end : end + 1;
    *end = 0;
    return start;
}

static bool parse_count(const char *word, uint32_t *value) {
    uint32_t number = 0;
    if (word == NULL || *word == 0) {
        return false;
    }
    for (; *word != 0; word++) {
        if (*word < '0' || *word > '9' || number > MAX_COUNT / 10) {
            return false;
        }
        number = number * 10 + (uint32_t)(*word - '0');
    }
    *value = number;
    return true;
}

static int hex_value(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static uint32_t picture_bytes(const device *device) {
    const rs_info *model = device_model(device);
    return model == NULL ? 0 : (uint32_t)model->width_px * model->height_px * model->channels;
}

static void load_begin(device *device, uint32_t bytes) {
    device->perf.expected = 0;
    device->perf.loaded = 0;
    if (bytes == 0 || device->hal->frame == NULL || bytes > device->hal->frame_bytes) {
        say_line(device, "e-[A picture must be of 1 to ", device->hal->frame == NULL ? 0 : device->hal->frame_bytes,
                 " bytes]");
        return;
    }
    device->perf.expected = bytes;
    say_line(device, "m-[Expecting ", bytes, " bytes]");
}

static void load_hex(device *device, const char *digits) {
    perf *perf = &device->perf;
    for (; digits[0] != 0; digits += 2) {
        int high = hex_value(digits[0]);
        int low = digits[1] == 0 ? -1 : hex_value(digits[1]);
        if (high < 0 || low < 0) {
            say(device, "e-[Not pairs of hex digits]\r\n");
            return;
        }
        if (perf->loaded >= perf->expected) {
            say(device, "e-[More bytes than were announced]\r\n");
            return;
        }
        device->hal->frame[perf->loaded++] = (uint8_t)(high << 4 | low);
    }
    if (perf->loaded == perf->expected) {
        say(device, "m-load-done\r\n");
    }
}

static void load_print(const device *device) {
    static const char hex[] = "0123456789abcdef";
    for (uint32_t i = 0; i < device->perf.loaded; i++) {
        char pair[2] = {hex[device->hal->frame[i] >> 4], hex[device->hal->frame[i] & 15]};
        say(device, i % 16 == 0 ? "m-buffer-" : "-");
        say_bytes(device, pair, sizeof pair);
        if (i % 16 == 15 || i + 1 == device->perf.loaded) {
            say(device, "\r\n");
        }
    }
}

static void data_base(device *device, char *rest) {
    char *word = next_word(&rest);
    uint32_t bytes;
    if (word == NULL) {
        say(device, "e-[Command 'db' requires a subcommand]\r\n");
    } else if (strcmp(word, "print") == 0) {
        load_print(device);
    } else if (strcmp(word, "load") != 0) {
        load_hex(device, word);
    } else if (!parse_count(next_word(&rest), &bytes)) {
        say(device, "e-[Command 'db load' requires the # of bytes]\r\n");
    } else {
        load_begin(device, bytes);
    }
}

static bool infer_once(device *device) {
    const rs_info *model = device_model(device);
    size_t row_bytes = (size_t)model->width_px * model->channels;
    bool good = device_begin(device, 0);
    for (uint32_t row = 0; good && row < model->height_px; row++) {
        good = device_push(device, device->hal->frame + row * row_bytes);
    }
    good = good && rs_finish(&device->net, device->picture.outputs) == RS_OK; /* no verdict, so no gate */
    device->picture.begun = false;
    return good;
}

static bool infer_times(device *device, uint32_t times) {
    bool good = true;
    for (uint32_t i = 0; good && i < times; i++) {
        good = infer_once(device);
    }
    return good;
}

static void infer(device *device, char *rest) {
    uint32_t times = 1, warm_up = 10;
    char *word = next_word(&rest);
    if (word != NULL && (!parse_count(word, &times) || times == 0)) {
        say(device, "e-[Inference iterations must be >0]\r\n");
        return;
    }
    word = next_word(&rest);
    if (word != NULL && !parse_count(word, &warm_up)) {
        say(device, "e-[Inference warmup must be a number]\r\n");
        return;
    }
    if (device_model(device) == NULL) {
        say(device, "e-[No model]\r\n");
        return;
    }
    if (device->perf.expected != picture_bytes(device) || device->perf.loaded != device->perf.expected) {
        say_line(device, "e-[Load a picture of ", picture_bytes(device), " bytes first]");
        return;
    }
    say_line(device, "m-warmup-start-", warm_up, "");
    bool good = infer_times(device, warm_up);
    say(device, "m-warmup-done\r\n");
    say_line(device, "m-infer-start-", times, "");
    say_timestamp(device);
    good = good && infer_times(device, times);
    say_timestamp(device);
    if (!good) {
        say(device, "e-[Inference failed]\r\n");
        return;
    }
    say(device, "m-infer-done\r\n");
    say_results(device);
}

static void help(const device *device) {
    say(device,
        "ULPMark for tinyML Firmware V0.0.1\r\n\r\n"
        "help         : Print this information.\r\n"
        "name         : Print the name of the device.\r\n"
        "profile      : Print firmware and model.\r\n"
        "timestamp    : Print a timestamp.\r\n"
        "db load N    : Announce a picture of N bytes.\r\n"
        "db HEX       : Its next bytes.\r\n"
        "db print     : Print what was loaded.\r\n"
        "infer N [W]  : W inferences to warm up, then N.\r\n"
        "results      : Print the last result.\r\n");
}

static void profile(const device *device) {
    say(device, "m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[");
    say(device, device_model(device) == NULL ? "none" : device_model(device)->name);
    say(device, "]\r\n");
}

static void carry_out(device *device, char *command) {
    device_close_gate(device); /* an answer may take long */
    char *rest = command;
    const char *word = next_word(&rest);
    if (word == NULL) {
        return;
    }
    if (strcmp(word, "name") == 0) {
        say(device, "m-name-dut-[");
        say(device, device->hal->board);
        say(device, "]\r\n");
    } else if (strcmp(word, "profile") == 0) {
        profile(device);
    } else if (strcmp(word, "timestamp") == 0) {
        say_timestamp(device);
    } else if (strcmp(word, "help") == 0) {
        help(device);
    } else if (strcmp(word, "db") == 0) {
        data_base(device, rest);
    } else if (strcmp(word, "infer") == 0) {
        infer(device, rest);
    } else if (strcmp(word, "results") == 0 && device_model(device) != NULL) {
        say_results(device);
    } else {
        say(device, "e-[Unknown command: ");
        say(device, word);
        say(device, "]\r\n");
    }
}

void perf_greet(device *device) {
    say(device, "m-timestamp-mode-performance\r\n");
    say_timestamp(device);
    say(device, "m-init-done\r\nm-ready\r\n");
}

void perf_take(device *device, uint8_t character) {
    perf *perf = &device->perf;
    if (character == '\r' || character == '\n' || character < ' ' || character > '~') {
        perf->characters = 0; /* no command holds these: noise, or the rest of a broken frame */
        return;
    }
    if (character != '%') {
        if (perf->characters < PERF_COMMAND_BYTES) {
            perf->command[perf->characters] = (char)character;
        }
        perf->characters += perf->characters <= PERF_COMMAND_BYTES;
        return;
    }
    if (perf->characters > PERF_COMMAND_BYTES) {
        say(device, "e-[Unknown command: longer than 80 characters]\r\n");
    } else {
        perf->command[perf->characters] = 0;
        carry_out(device, perf->command);
    }
    perf->characters = 0;
    say(device, "m-ready\r\n");
}
