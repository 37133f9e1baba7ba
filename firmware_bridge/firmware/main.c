/* The firmware: boots the device and serves it for ever. */
#include "device.h"
#include "port.h"

int main(int argc, char **argv) {
    static device line_device; /* the one context */
    const hal *hal = port_hal(argc, argv);
    device_boot(&line_device, hal);
    for (;;) {
        device_poll(&line_device);
    }
}
