/*
 * The entry that a VMM jumps to by the PVH boot protocol (Xen's docs/misc/pvh.pandoc): 32 bits,
 * flat segments, no paging, interrupts off, ebx holds the address of struct hvm_start_info.
 */
	.section .note.pvh, "a", @note
	.align 4
	.long 4, 8, 18			/* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start, 0

	.section .text.start, "ax"
	.globl start
start:
	cld
	mov $stack_end, %esp
	push %ebx
	call guest
1:	hlt
	jmp 1b

	.globl triple_fault
triple_fault:
	lidt no_table
	ud2				/* int3 is beyond a KVM that interprets */
1:	jmp 1b

	.section .rodata
no_table:
	.word 0
	.long 0

	.bss
	.align 16
	.skip 16384
stack_end:
	.section .note.GNU-stack, "", @progbits
