/* MPS3 with a Cortex-M55 (AN547): where its devices are. External RAM stands in for flash: an emulator keeps it in a
 * file. */
#ifndef DIAGLINE_BOARD_H
#define DIAGLINE_BOARD_H

#define BOARD_NAME "mps3_an547"
#define BOARD_CLOCK_HZ 32000000u
#define BOARD_UART 0x59303000u
#define BOARD_UART_RX_IRQ 33u
#define BOARD_FPGAIO 0x59302000u /* its first LED is the gate */
#define BOARD_EXTERNAL 0x60000000u

#endif
