/* Holds a pod's namespaces open: does nothing until it is told to end, and buries the pod's orphans. */
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
        /* Without a child there is nothing to wait for but a signal. */
        if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
            pause();
    }
}
