/* MPS2 with a Cortex-M4 (AN386): where its devices are. External RAM stands in for flash: an emulator keeps it in a
 * file. */
#ifndef DIAGLINE_BOARD_H
#define DIAGLINE_BOARD_H

#define BOARD_NAME "mps2_an386"
#define BOARD_CLOCK_HZ 25000000u
#define BOARD_UART 0x40004000u
#define BOARD_UART_RX_IRQ 0u
#define BOARD_FPGAIO 0x40028000u /* its first LED is the gate */
#define BOARD_EXTERNAL 0x21000000u

#endif
