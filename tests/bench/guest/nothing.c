/* The least program: no C library, one system call. For x86-64 and AArch64. */
void _start(void)
{
#if defined(__x86_64__)
	__asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
#else
	__asm__ volatile("mov x8, #93; mov x0, #0; svc 0");
#endif
	for (;;)
		;
}
