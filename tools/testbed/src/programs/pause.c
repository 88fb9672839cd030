/* Keeps the namespaces of a pod until it receives a signal, and reaps orphaned processes of the pod. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal)
{
    (void)signal;
    _exit(0);
}

int main(void)
{
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (;;) {
        /* Without a child, only a signal ends the wait. */
        if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
            pause();
    }
}
