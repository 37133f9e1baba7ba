/* What main.c asks of a port. */
#ifndef DIAGLINE_PORT_H
#define DIAGLINE_PORT_H

#include "hal.h"

/* Sets the hardware up and returns it; ends the program where it cannot. Arguments are of the host port. */
const hal *port_hal(int argc, char **argv);

#endif
